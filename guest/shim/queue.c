// SPDX-License-Identifier: GPL-2.0-only
/*
 * Messages out and back, events in: with a device that takes messages directly
 * by one register write each, else by the two rings.
 *
 * vb_device.lock guards both rings. A message belongs to its poster, but for
 * the time between vb_post() and its completion, when both pages belong to the
 * device; waiting for that end cannot be interrupted. The drain stores
 * fixed-size results, sets bits and wakes; it never sleeps, frees, allocates or
 * touches user memory, so that it can run in any context.
 */
#include <linux/gfp.h>
#include <linux/percpu.h>
#include <linux/slab.h>

#include "shim.h"

/*
 * Idle messages that each CPU keeps for the next ioctls: one for its caller, one
 * for whom the caller wakes, two for good measure.
 */
#define VB_CACHE_MAX	4
/* Entries of each ring handled under one hold of the lock. */
#define VB_BATCH	32

struct vb_cache {
	unsigned int count;
	struct vb_message *messages[VB_CACHE_MAX];
};

static DEFINE_PER_CPU(struct vb_cache, vb_caches);

static void vb_message_free(struct vb_message *msg)
{
	free_pages((unsigned long)msg->out, 1);
	free_pages((unsigned long)msg->own, VB_OWN_ORDER);
	kfree(msg);
}

/* A message with both pages, or NULL (not with __GFP_NOFAIL). */
struct vb_message *vb_message_get(gfp_t gfp)
{
	struct vb_message *msg = NULL;
	struct vb_cache *cache = get_cpu_ptr(&vb_caches);

	if (cache->count)
		msg = cache->messages[--cache->count];
	put_cpu_ptr(&vb_caches);
	if (msg)
		return msg;

	msg = kzalloc(sizeof(*msg), gfp);
	if (!msg)
		return NULL;
	/* Zeroed once: what is left of an old message is of our own making. */
	msg->out = (void *)__get_free_pages(gfp | __GFP_ZERO, 1);
	if (!msg->out) {
		kfree(msg);
		return NULL;
	}
	msg->in = msg->out + VB_PAGE_SIZE;
	msg->pfn = cpu_to_le32(page_to_pfn(virt_to_page(msg->out)));
	/* The pages stay where they are: only how much of the first is used changes. */
	sg_init_one(&msg->sg[0], msg->out, VB_PAGE_SIZE);
	sg_init_one(&msg->sg[1], msg->in, VB_PAGE_SIZE);
	init_completion(&msg->done);
	return msg;
}

/* The message must not be posted. */
void vb_message_put(struct vb_message *msg)
{
	struct vb_cache *cache;

	if (!msg)
		return;
	msg->work = NULL;
	msg->own_used = 0;
	cache = get_cpu_ptr(&vb_caches);
	if (cache->count < VB_CACHE_MAX) {
		cache->messages[cache->count++] = msg;
		msg = NULL;
	}
	put_cpu_ptr(&vb_caches);
	if (msg)
		vb_message_free(msg);
}

void vb_message_cache_empty(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct vb_cache *cache = per_cpu_ptr(&vb_caches, cpu);

		while (cache->count)
			vb_message_free(cache->messages[--cache->count]);
	}
}

static void vb_wake(wait_queue_head_t *head, bool sync)
{
	if (sync)
		wake_up_sync(head);
	else
		wake_up(head);
}

/*
 * Brings one event, of `size` bytes, to its thread. `event` is the device's memory.
 * Returns the thread if it brings scheduling of AOSP's kind, else NULL.
 */
static struct vb_thread *vb_deliver(struct vb_device *dev,
				    const struct vb_event *event, u32 size,
				    bool sync)
{
	u16 kind = le16_to_cpu(READ_ONCE(event->kind));
	struct vb_thread *thread = NULL;
	struct vb_thread *lent = NULL;
	struct vb_proc *proc;

	vb_note_idle(dev, le32_to_cpu(READ_ONCE(event->idle_pages)));
	rcu_read_lock();
	proc = vb_proc_peek(dev, le32_to_cpu(READ_ONCE(event->proc)));
	if (proc && le32_to_cpu(READ_ONCE(event->epoch)) == dev->epoch)
		thread = vb_thread_peek(proc, le32_to_cpu(READ_ONCE(event->tid)));
	if (thread && kind == VB_EV_POLL) {
		wake_up_poll(&thread->poll_wait, EPOLLIN | EPOLLRDNORM);
	} else if (thread &&
		   (kind == VB_EV_DONE || kind == VB_EV_INSTALL) &&
		   le64_to_cpu(READ_ONCE(event->seq)) == READ_ONCE(thread->seq) &&
		   !smp_load_acquire(&thread->event_ready)) {
		memcpy(&thread->event, event, size);
		if (thread->event.nice_kind == cpu_to_le32(VB_ACT_SCHED)) {
			smp_store_release(&thread->lent, VB_LENT_DUE);
			lent = thread;
		}
		smp_store_release(&thread->event_ready, true);
		vb_wake(&thread->wait, sync);
	} else {
		/* A POLL edge may outlive its thread; all others are bugs. */
		atomic_inc(&dev->dropped_events);
		if (kind != VB_EV_POLL)
			pr_warn_ratelimited("event %u for proc %u tid %u dropped\n",
					    kind, le32_to_cpu(event->proc),
					    le32_to_cpu(event->tid));
	}
	rcu_read_unlock();
	return lent;
}

/*
 * Brings the events that a direct answer carries to their threads. Called by its
 * poster, who is not preempted until all of them are awake: nobody else knows.
 */
static void vb_deliver_all(struct vb_device *dev, struct vb_message *msg)
{
	const struct vb_answer *answer = msg->in;
	u32 count = le16_to_cpu(answer->event_count);
	u32 at = le16_to_cpu(answer->event_offset);

	/* Keeps the threads. */
	rcu_read_lock();
	for (; count; count--) {
		const struct vb_event *event = msg->in + at;
		struct vb_thread *lent;
		unsigned long flags;
		u32 size;

		if (at > VB_PAGE_SIZE - VB_EVENT_HEAD)
			break;
		size = VB_EVENT_HEAD + min_t(u32, le32_to_cpu(event->length), sizeof(event->bytes));
		if (at + size > VB_PAGE_SIZE)
			break;
		spin_lock_irqsave(&dev->lock, flags);
		lent = vb_deliver(dev, event, size, true);
		spin_unlock_irqrestore(&dev->lock, flags);
		if (lent)
			vb_lend(lent);
		at += ALIGN(size, 8);
	}
	rcu_read_unlock();
	if (count)
		vb_device_bug(dev, "events outside of the answer");
}

/*
 * By the register: the message is answered when the write returns. Whether the
 * device is dead is looked at where vb_device_end() waits for us.
 */
static int vb_post_direct(struct vb_device *dev, struct vb_message *msg)
{
	struct virtio_device *vdev = dev->vdev;
	struct vb_answer *answer = msg->in;
	bool answered = false;

	answer->status = 0;
	preempt_disable();
	if (!vb_device_dead(dev)) {
		vdev->config->set(vdev, offsetof(struct vb_config, post),
				  &msg->pfn, sizeof(msg->pfn));
		answered = READ_ONCE(answer->status);
		if (!answered)
			vb_device_lost(dev);
		else if (answer->event_count)
			vb_deliver_all(dev, msg);
	}
	preempt_enable();
	if (!answered) {
		wait_for_completion(&dev->ended);
		return -EIO;
	}
	msg->written = VB_PAGE_SIZE;
	if (msg->work)
		queue_work(vb_wq, msg->work);
	return 0;
}

/* One attempt: 0, -ENOSPC when the ring is full, -EIO when the device is gone. */
static int vb_try_post(struct vb_device *dev, struct vb_message *msg)
{
	struct scatterlist *sgs[2] = { &msg->sg[0], &msg->sg[1] };
	bool kick = false;
	unsigned long flags;
	int error;

	msg->sg[0].length = msg->length;

	/*
	 * From the doorbell to the end of the drain nobody else knows whom the
	 * device has just woken: a poster of low priority must not be preempted
	 * there. The doorbell is rung outside the lock, since the device does
	 * all its work inside that write.
	 */
	preempt_disable();
	spin_lock_irqsave(&dev->lock, flags);
	if (dev->dead)
		error = -EIO;
	else if (dev->in_flight >= dev->capacity)
		error = -ENOSPC;
	else
		error = virtqueue_add_sgs(dev->requests, sgs, 1, 1, msg, GFP_ATOMIC);
	if (!error) {
		dev->in_flight++;
		kick = virtqueue_kick_prepare(dev->requests);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	if ((error && error != -ENOSPC) ||
	    (kick && !virtqueue_notify(dev->requests)))
		vb_device_lost(dev);
	vb_drain(dev, true);
	preempt_enable();
	return error;
}

/* By the ring; waits for room where it is full. */
static int vb_post_ring(struct vb_device *dev, struct vb_message *msg)
{
	int error;

	reinit_completion(&msg->done);
	msg->written = 0;
	msg->posted = true;
	for (;;) {
		error = vb_try_post(dev, msg);
		if (error != -ENOSPC)
			break;
		wait_event(dev->room, vb_device_dead(dev) ||
			   READ_ONCE(dev->in_flight) < dev->capacity);
	}
	if (error) {
		msg->posted = false;
		/*
		 * The device may still hold the addresses of earlier messages:
		 * let nobody free a page before it was reset.
		 */
		wait_for_completion(&dev->ended);
		return -EIO;
	}
	return 0;
}

/*
 * Hands the message to the device. After 0 it comes back through vb_settle(),
 * also from a lost device.
 */
int vb_post(struct vb_device *dev, struct vb_message *msg)
{
	struct vb_header *header = msg->out;

	header->length = cpu_to_le32(msg->length);
	msg->error = 0;
	return dev->direct ? vb_post_direct(dev, msg) : vb_post_ring(dev, msg);
}

/* Waits until a posted message is ours again: 0, or -EIO from a lost device. */
int vb_settle(struct vb_message *msg)
{
	if (msg->posted) {
		wait_for_completion(&msg->done);
		msg->posted = false;
	}
	return msg->error;
}

/* Waits for the answer of a posted message. */
int vb_answer(struct vb_device *dev, struct vb_message *msg,
	      struct vb_reply *reply)
{
	int error = vb_settle(msg);

	if (error)
		return error;
	if (msg->written < sizeof(reply->answer)) {
		vb_device_bug(dev, "short answer");
		return -EIO;
	}
	memcpy(&reply->answer, msg->in, sizeof(reply->answer));
	reply->page = msg->in;
	reply->size = VB_PAGE_SIZE;
	vb_note_idle(dev, le32_to_cpu(reply->answer.idle_pages));
	return 0;
}

/* Posts and waits for the answer. */
int vb_exchange(struct vb_device *dev, struct vb_message *msg,
		struct vb_reply *reply)
{
	int error = vb_post(dev, msg);

	return error ? error : vb_answer(dev, msg, reply);
}

static void vb_complete(struct vb_device *dev, struct vb_message *msg, int error,
			u32 written)
{
	struct work_struct *work = msg->work;

	dev->in_flight--;
	msg->error = error;
	msg->written = written;
	/* From here on the message may be gone; what `work` is in waits for it. */
	complete(&msg->done);
	if (work)
		queue_work(vb_wq, work);
}

static int vb_post_event_buffer(struct vb_device *dev, struct vb_event *event)
{
	struct scatterlist sg;

	sg_init_one(&sg, event, VB_EVENT_SIZE);
	return virtqueue_add_inbuf(dev->events, &sg, 1, event, GFP_ATOMIC);
}

/*
 * Handles a batch of both rings; true when there may be more. Called under RCU,
 * which keeps the threads that events were for. `sync`: in process context.
 */
static bool vb_drain_batch(struct vb_device *dev, bool sync)
{
	struct vb_thread *thread, *lent[VB_BATCH];
	unsigned int messages, events, length, lends = 0;
	bool starved = false, kick = false;
	struct vb_message *msg;
	struct vb_event *event;
	unsigned long flags;

	spin_lock_irqsave(&dev->lock, flags);
	if (dev->dead) {
		spin_unlock_irqrestore(&dev->lock, flags);
		return false;
	}
	for (messages = 0; messages < VB_BATCH; messages++) {
		msg = virtqueue_get_buf(dev->requests, &length);
		if (!msg)
			break;
		vb_complete(dev, msg, 0, length);
	}
	for (events = 0; events < VB_BATCH; events++) {
		event = virtqueue_get_buf(dev->events, &length);
		if (!event)
			break;
		if (le16_to_cpu(READ_ONCE(event->flags)) & VB_EV_MORE_EVENTS)
			starved = true;
		thread = vb_deliver(dev, event, sizeof(*event), sync);
		if (thread)
			lent[lends++] = thread;
		if (vb_post_event_buffer(dev, event))
			vb_device_lost(dev);
	}
	/* Also called without need: it keeps the ring from kicking by itself. */
	if (events)
		kick = virtqueue_kick_prepare(dev->events) && starved;
	spin_unlock_irqrestore(&dev->lock, flags);

	/* Not from an interrupt: there each does it itself when it runs. */
	while (sync && lends)
		vb_lend(lent[--lends]);
	if (messages && wq_has_sleeper(&dev->room))
		wake_up(&dev->room);
	if (kick && !virtqueue_notify(dev->events))
		vb_device_lost(dev);
	return kick || messages == VB_BATCH || events == VB_BATCH;
}

/*
 * Brings in whatever the device has answered and reported. `sync`: the caller
 * has just posted and is likely to sleep soon.
 */
void vb_drain(struct vb_device *dev, bool sync)
{
	/* The rings are freed one grace period after the device was declared dead. */
	rcu_read_lock();
	while (vb_drain_batch(dev, sync))
		;
	rcu_read_unlock();
}

/* Gives the device its event buffers, once, in probe. */
int vb_post_event_buffers(struct vb_device *dev)
{
	unsigned int count = min_t(unsigned int, VB_QUEUE_SIZE,
				   virtqueue_get_vring_size(dev->events));
	unsigned int i;
	unsigned long flags;
	int error = 0;
	bool kick;

	spin_lock_irqsave(&dev->lock, flags);
	for (i = 0; i < count && !error; i++)
		error = vb_post_event_buffer(dev, &dev->event_buffers[i]);
	kick = virtqueue_kick_prepare(dev->events);
	spin_unlock_irqrestore(&dev->lock, flags);
	if (kick)
		virtqueue_notify(dev->events);
	return error;
}

/* After the reset of a dead device: everything in flight ends with -EIO. */
void vb_fail_in_flight(struct vb_device *dev)
{
	struct vb_message *msg;
	unsigned long flags;

	spin_lock_irqsave(&dev->lock, flags);
	while ((msg = virtqueue_detach_unused_buf(dev->requests)))
		vb_complete(dev, msg, -EIO, 0);
	while (virtqueue_detach_unused_buf(dev->events))
		;
	spin_unlock_irqrestore(&dev->lock, flags);
	wake_up_all(&dev->room);
}

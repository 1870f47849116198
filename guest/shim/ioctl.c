// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of one ioctl: build, post, answer the core's questions, sleep where
 * the core parks the thread, bring the result to the caller.
 *
 *   BUILD -> POSTED -> DONE
 *                   -> MORE | NEEDS | INSTALL -> POSTED
 *                   -> PARKED -> event DONE -> DONE
 *                             -> event INSTALL -> POSTED
 *                             -> event FETCH | signal | timeout -> POSTED
 *
 * The state is a struct vb_call on the task's stack; nothing else refers to it
 * and no lock is held. The result is always the core's, except -EIO after the
 * device was lost. A parked thread holds no message and no page.
 */
#include <linux/freezer.h>
#include <linux/jiffies.h>
#include <linux/pagemap.h>
#include <linux/security.h>
#include <linux/uaccess.h>
#include <asm/futex.h>

#include "shim.h"

/* Whether the read half's first word could be written (B075 before dequeuing). */
static bool vb_read_buffer_is_bad(struct vb_call *call)
{
	u64 address = call->bwr.read_buffer;
	u32 old;

	if (!call->bwr.read_size || call->bwr.read_consumed)
		return false;
	if (address >= TASK_SIZE_MAX - sizeof(u32))
		return true;
	/* A locked access must not lie across two cache lines. */
	if (address % sizeof(u32))
		return fault_in_safe_writeable((const char __user *)(uintptr_t)address,
					       sizeof(u32)) != 0;
	/*
	 * A store that changes nothing, whatever other threads store there
	 * meanwhile: 0 is replaced by 0. Page faults are taken, as we may sleep.
	 */
	return futex_atomic_cmpxchg_inatomic(&old, (u32 __user *)(uintptr_t)address,
					     0, 0) != 0;
}

/* Copies the argument and writes the first message. */
static void vb_build(struct vb_call *call)
{
	u32 size = _IOC_SIZE(call->cmd);
	struct vb_ioctl *body;
	int error = 0;

	if (call->cmd == BINDER_WRITE_READ) {
		if (copy_from_user(&call->bwr, call->arg, sizeof(call->bwr))) {
			call->arg_error = -EFAULT;
			memset(&call->bwr, 0, sizeof(call->bwr));
		} else if (vb_read_buffer_is_bad(call)) {
			call->flags |= VB_MSG_RBAD;
		}
		body = vb_begin_call(call, VB_IOCTL, sizeof(*body));
		memcpy(body->arg, &call->bwr, sizeof(call->bwr));
		vb_gather_chunk(call->msg, &call->pins, &call->bwr,
				call->bwr.write_consumed, &body->chunk);
	} else {
		body = vb_begin_call(call, VB_IOCTL, sizeof(*body));
		if (size <= sizeof(body->arg) &&
		    copy_from_user(body->arg, call->arg, size)) {
			call->arg_error = -EFAULT;
			memset(body->arg, 0, sizeof(body->arg));
		}
		if (call->cmd == BINDER_SET_CONTEXT_MGR ||
		    call->cmd == BINDER_SET_CONTEXT_MGR_EXT)
			error = security_binder_set_context_mgr(call->proc->cred);
	}
	body->cmd = cpu_to_le32(call->cmd);
	body->arg_error = cpu_to_le32(call->arg_error);
	body->lsm_error = cpu_to_le32(error);
}

/* Takes over how far the write half has come, while it is under way. */
static void vb_note_write(struct vb_call *call)
{
	if (call->cmd == BINDER_WRITE_READ && !call->write_done)
		call->bwr.write_consumed =
			le64_to_cpu(call->reply.answer.write_consumed);
}

/* Tells the core that its last result did not reach the reader. */
static void vb_read_fault(struct vb_call *call, u64 offset)
{
	struct vb_read_fault *body;
	struct vb_reply reply;

	if (!call->msg)
		call->msg = vb_message_get(GFP_KERNEL | __GFP_NOFAIL);
	body = vb_begin_call(call, VB_READ_FAULT, sizeof(*body));
	body->offset = cpu_to_le64(offset);
	if (!vb_exchange(call->dev, call->msg, &reply))
		vb_do_actions(call->dev, &reply, call->thread);
}

/*
 * Copies to the caller; how much could not be. Raw, as vb_copy_in(): `from` lies
 * in a page or an event of ours with so many bytes.
 */
static unsigned long vb_copy_out(void __user *to, const void *from, u32 length)
{
	return access_ok(to, length) ? raw_copy_to_user(to, from, length) : length;
}

/*
 * Copies the result bytes of the answer out: into the read buffer, or over the
 * ioctl's argument. 0, -EFAULT (the core has been told), -EIO for an answer
 * that points outside.
 */
static int vb_copy_result(struct vb_call *call)
{
	const struct vb_answer *answer = &call->reply.answer;
	u32 length = le32_to_cpu(answer->result_length);
	u32 creds = le32_to_cpu(answer->creds_offset);
	u32 first_word = le32_to_cpu(answer->first_word);
	u64 position = le64_to_cpu(answer->result_position);
	u64 size = _IOC_SIZE(call->cmd);
	void __user *to = call->arg;
	unsigned long left;
	u8 *bytes;

	bytes = vb_reply_at(&call->reply, le32_to_cpu(answer->result_offset),
			    length, 1);
	if (call->cmd == BINDER_WRITE_READ) {
		size = call->bwr.read_size;
		to = u64_to_user_ptr(call->bwr.read_buffer);
	}
	/* What runs past the buffer would be written over the caller's memory. */
	if (!bytes || (length && (position > size || length > size - position))) {
		vb_device_bug(call->dev, "result outside of the buffer");
		return -EIO;
	}
	if (length && creds != VB_NO_CREDS) {
		if (length < 8 || creds > length - 8) {
			vb_device_bug(call->dev, "credentials outside of the result");
			return -EIO;
		}
		vb_translate_creds(call->dev, bytes + creds,
				   le32_to_cpu(answer->creds_proc));
	}
	if (length) {
		left = vb_copy_out(to + position, bytes, length);
		if (left) {
			if (call->cmd == BINDER_WRITE_READ)
				vb_read_fault(call, length - left);
			return -EFAULT;
		}
	}
	if (call->cmd != BINDER_WRITE_READ)
		return 0;
	/* SPAWN_LOOPER; like the in-kernel driver, a fault here undoes nothing. */
	if (first_word && put_user(first_word, (u32 __user *)to))
		return -EFAULT;
	return 0;
}

/* The errno for the caller; what the device may not give becomes -EIO. */
static int vb_errno(struct vb_call *call, int error)
{
	switch (error) {
	case 0:
	case -EFAULT:
	case -EINVAL:
	case -ENOMEM:
	case -EAGAIN:
	case -EINTR:
	case -EBUSY:
	case -EPERM:
	case -EACCES:
	case -EIO:
		return error;
	case -ERESTARTSYS:
		/* Must not reach user space without the signal it is for. */
		return signal_pending(current) ? error : -EINTR;
	}
	/* The security module's own errno, which we reported ourselves. */
	if ((call->cmd == BINDER_SET_CONTEXT_MGR ||
	     call->cmd == BINDER_SET_CONTEXT_MGR_EXT) &&
	    error < 0 && error >= -MAX_ERRNO)
		return error;
	vb_device_bug(call->dev, "unknown error");
	return -EIO;
}

/* Brings an answer DONE to the caller; the result of the ioctl. */
static int vb_finish(struct vb_call *call)
{
	const struct vb_answer *answer = &call->reply.answer;
	int error = vb_errno(call, (int)le32_to_cpu(answer->error));
	u64 read_consumed = le64_to_cpu(answer->read_consumed);
	int fault;

	/* Descriptors are there before the bytes that name them. */
	if (error)
		vb_install_undo(call);
	else if (call->install)
		error = vb_install_commit(call);
	if (error == -EIO)
		return error;

	vb_note_write(call);
	fault = vb_copy_result(call);
	if (fault == -EFAULT && call->cmd == BINDER_VERSION)
		return -EINVAL;		/* B042 */
	if (call->cmd != BINDER_WRITE_READ || call->arg_error)
		return error ? error : fault;

	/*
	 * read_consumed: given by the core with success, forced to 0 by a write
	 * half that failed (B063), else untouched (B077).
	 */
	if (fault)
		error = fault;
	else if (!error)
		call->bwr.read_consumed = read_consumed;
	else if (error != -EAGAIN && error != -EINTR && !call->write_done &&
		 call->bwr.write_consumed < call->bwr.write_size)
		call->bwr.read_consumed = 0;
	if (copy_to_user(call->arg, &call->bwr, sizeof(call->bwr)))
		error = -EFAULT;
	return error;
}

/* MORE: brings out what is there and posts the next chunk. */
static int vb_more(struct vb_call *call)
{
	struct vb_continue *body;
	int error;

	vb_note_write(call);
	error = vb_copy_result(call);
	if (error) {
		if (error == -EFAULT && call->cmd == BINDER_WRITE_READ &&
		    copy_to_user(call->arg, &call->bwr, sizeof(call->bwr)))
			return -EFAULT;
		return error;
	}
	/* The core asks again for what it still needs of a command under way. */
	vb_pins_free(&call->pins);
	call->msg->own_used = 0;
	body = vb_begin_call(call, VB_CONTINUE, sizeof(*body));
	body->reason = cpu_to_le32(VB_CONT_MORE);
	if (call->cmd == BINDER_WRITE_READ && !call->write_done)
		vb_gather_chunk(call->msg, &call->pins, &call->bwr,
				call->bwr.write_consumed, &body->chunk);
	cond_resched();
	return vb_exchange(call->dev, call->msg, &call->reply);
}

/* INSTALL: reserves descriptors for the tokens and reports the numbers. */
static int vb_answer_install(struct vb_call *call)
{
	int error = vb_install_reserve(call);

	return error ? error : vb_exchange(call->dev, call->msg, &call->reply);
}

static bool vb_may_go_on(struct vb_call *call)
{
	return smp_load_acquire(&call->thread->event_ready) ||
	       vb_device_dead(call->dev);
}

/*
 * Sleeps until vb_may_go_on(), a signal that ends such a sleep, or the timeout.
 * As wait_event() but for a place in the queue, which the thread always has. What
 * is left of the timeout.
 */
static long vb_sleep(struct vb_call *call, unsigned int state, long timeout)
{
	for (;;) {
		set_current_state(state);
		if (vb_may_go_on(call) || signal_pending_state(state, current) ||
		    !timeout)
			break;
		timeout = schedule_timeout(timeout);
	}
	__set_current_state(TASK_RUNNING);
	return timeout;
}

/* A message without a body that belongs to the ioctl under way. */
static int vb_ask(struct vb_call *call, u16 kind)
{
	/* The thread gave its message back when it parked; this must not fail. */
	if (!call->msg)
		call->msg = vb_message_get(GFP_KERNEL | __GFP_NOFAIL);
	vb_begin_call(call, kind, 0);
	return vb_exchange(call->dev, call->msg, &call->reply);
}

/* Makes the thread's event look like the answer it stands for. */
static int vb_take_event(struct vb_call *call)
{
	struct vb_thread *thread = call->thread;
	struct vb_event *event = &thread->event;
	u16 flags = le16_to_cpu(event->flags);
	u32 length = le32_to_cpu(event->length);
	struct vb_reply *reply = &call->reply;
	struct vb_answer *answer = &reply->answer;

	vb_schedule_event(thread);
	if (flags & VB_EV_FETCH) {
		/* The next event may come as soon as FETCH is posted. */
		smp_store_release(&thread->event_ready, false);
		return vb_ask(call, VB_FETCH);
	}
	if (length > sizeof(event->bytes)) {
		vb_device_bug(call->dev, "event longer than its bytes");
		return -EIO;
	}

	memset(answer, 0, sizeof(*answer));
	reply->page = event->bytes;
	reply->size = length;
	if (le16_to_cpu(event->kind) == VB_EV_INSTALL) {
		answer->status = cpu_to_le16(VB_INSTALL);
		answer->list_count = cpu_to_le32(length / sizeof(__le32));
	} else {
		answer->status = cpu_to_le16(VB_DONE);
		answer->error = event->error;
		answer->read_consumed = event->read_consumed;
		/* The read began where the caller said; nothing came before. */
		answer->result_position = cpu_to_le64(call->bwr.read_consumed);
		answer->result_length = event->length;
		answer->first_word = event->first_word;
		answer->creds_offset = event->creds_offset;
		answer->creds_proc = event->creds_proc;
	}
	return 0;
}

/* PARKED: sleeps, and leaves in call->reply what ended the sleep. */
static int vb_park(struct vb_call *call)
{
	const struct vb_answer *answer = &call->reply.answer;
	bool freeze = le16_to_cpu(answer->park) == VB_PARK_FREEZE;
	u32 timeout = le32_to_cpu(answer->timeout_ms);
	long left;
	int error;

	vb_note_write(call);
	call->write_done = true;
	/* The core has gone on to other work: nothing may be left reserved. */
	vb_install_undo(call);
	vb_pins_free(&call->pins);
	vb_message_put(call->msg);
	call->msg = NULL;

	/*
	 * The event may be here already; spurious wakes send nothing, so that
	 * the thread keeps its place among the waiting.
	 */
	left = vb_sleep(call, TASK_INTERRUPTIBLE | TASK_FREEZABLE,
			freeze ? msecs_to_jiffies(timeout) : MAX_SCHEDULE_TIMEOUT);
	if (!vb_may_go_on(call)) {
		error = vb_ask(call, left ? VB_CANCEL : VB_TIMEOUT);
		if (error)
			return error;
		if (le16_to_cpu(call->reply.answer.status) != VB_TOO_LATE)
			return 0;
		/* The event is certain, and holds work that must not be lost. */
		vb_do_actions(call->dev, &call->reply, call->thread);
		vb_sleep(call, TASK_UNINTERRUPTIBLE, MAX_SCHEDULE_TIMEOUT);
	}
	if (!smp_load_acquire(&call->thread->event_ready))
		return -EIO;
	return vb_take_event(call);
}

static int vb_run(struct vb_call *call)
{
	int error = vb_exchange(call->dev, call->msg, &call->reply);

	while (!error) {
		u16 status = le16_to_cpu(call->reply.answer.status);

		vb_do_actions(call->dev, &call->reply, call->thread);
		switch (status) {
		case VB_DONE:
			return vb_finish(call);
		case VB_MORE:
			error = vb_more(call);
			break;
		case VB_NEEDS:
			error = vb_answer_needs(call);
			break;
		case VB_INSTALL:
			error = vb_answer_install(call);
			break;
		case VB_PARKED:
			error = vb_park(call);
			break;
		default:
			vb_device_bug(call->dev, "unknown status of an answer");
			error = -EIO;
		}
	}
	return error;
}

long vb_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct vb_proc *proc = file->private_data;
	struct vb_call call = {
		.dev = proc->dev,
		.proc = proc,
		.file = file,
		.cmd = cmd,
		.arg = (void __user *)arg,
	};
	int error;

	if (vb_device_dead(call.dev))
		return -EIO;
	call.thread = vb_thread_get(proc);
	if (!call.thread)
		return -ENOMEM;
	call.msg = vb_message_get(GFP_KERNEL);
	if (!call.msg)
		return -ENOMEM;
	vb_pins_init(&call.pins);
	/*
	 * Events of earlier ioctls are dropped by their seq from here on. None is on
	 * its way: an ioctl of which the core has sent one waits for it.
	 */
	WRITE_ONCE(call.thread->seq, call.thread->seq + 1);
	WRITE_ONCE(call.thread->lent, VB_LENT_NONE);
	smp_store_release(&call.thread->event_ready, false);
	WRITE_ONCE(call.thread->owner, current);

	vb_build(&call);
	error = vb_run(&call);

	WRITE_ONCE(call.thread->owner, NULL);
	smp_store_release(&call.thread->event_ready, false);
	vb_install_undo(&call);
	vb_pins_free(&call.pins);
	vb_message_put(call.msg);
	if (cmd == BINDER_THREAD_EXIT && !error)
		vb_thread_exit(proc, call.thread);
	/* As the in-kernel driver (B038), but no caller can fill the log. */
	if (error && error != -EINTR && error != -ERESTARTSYS)
		pr_info_ratelimited("%d:%d ioctl %x %lx returned %d\n",
				    task_tgid_nr(proc->tsk),
				    task_pid_nr(current), cmd, arg, error);
	return error;
}

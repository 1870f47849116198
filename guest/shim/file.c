// SPDX-License-Identifier: GPL-2.0-only
/*
 * Open files and the records behind them: procs, threads, their lookup by id.
 *
 * A proc record lives until the core has answered RELEASE (or the device was
 * reset), because until then the core may write to its pages and name its id.
 * A thread record belongs to its task; the drain finds it under RCU, so both
 * kinds are freed after a grace period. flush_mutex owns the one FLUSH note.
 */
#include <linux/cred.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "shim.h"

/*
 * The proc with this id, or NULL. Under RCU. A record enters its place among the
 * recent ones when it enters the xarray, and leaves it when it leaves that.
 */
struct vb_proc *vb_proc_peek(struct vb_device *dev, u32 id)
{
	struct vb_proc *proc = READ_ONCE(dev->recent[id % VB_RECENT]);

	return proc && proc->id == id ? proc : xa_load(&dev->procs, id);
}

/* The thread of the proc with this tid, or NULL. Under RCU. */
struct vb_thread *vb_thread_peek(struct vb_proc *proc, u32 tid)
{
	struct vb_thread *thread = READ_ONCE(proc->recent[tid % VB_RECENT]);

	return thread && thread->tid == tid ? thread : xa_load(&proc->threads, tid);
}

/* The proc with this id, with a reference, or NULL. */
struct vb_proc *vb_proc_find(struct vb_device *dev, u32 id)
{
	struct vb_proc *proc;

	rcu_read_lock();
	proc = vb_proc_peek(dev, id);
	if (proc && !kref_get_unless_zero(&proc->ref))
		proc = NULL;
	rcu_read_unlock();
	return proc;
}

/* The first proc with at least this id, with a reference, or NULL. */
struct vb_proc *vb_proc_next(struct vb_device *dev, unsigned long *id)
{
	struct vb_proc *proc;

	rcu_read_lock();
	proc = xa_find(&dev->procs, id, ULONG_MAX, XA_PRESENT);
	while (proc && !kref_get_unless_zero(&proc->ref))
		proc = xa_find_after(&dev->procs, id, ULONG_MAX, XA_PRESENT);
	rcu_read_unlock();
	return proc;
}

static void vb_proc_free(struct kref *ref)
{
	struct vb_proc *proc = container_of(ref, struct vb_proc, ref);

	vb_message_put(proc->flush_note);
	vb_message_put(proc->release_note);
	vb_message_put(proc->mmap_note);
	vb_message_put(proc->unmap_note);
	xa_destroy(&proc->threads);
	put_cred(proc->cred);
	mmdrop(proc->mm);
	put_task_struct(proc->tsk);
	vb_device_put(proc->dev);
	kfree_rcu(proc, rcu);
}

void vb_proc_put(struct vb_proc *proc)
{
	kref_put(&proc->ref, vb_proc_free);
}

/* Not for use under RCU alone: a polled thread's wait head must be left first. */
static void vb_thread_free(struct vb_thread *thread)
{
	wake_up_pollfree(&thread->poll_wait);
	kfree_rcu(thread, rcu);
}

/* Wakes the owner of a record, if it is in an ioctl. Under RCU, as vb_lend(). */
static int vb_wake_owner(wait_queue_entry_t *entry, unsigned int mode, int flags,
			 void *key)
{
	struct vb_thread *thread = container_of(entry, struct vb_thread, sleeper);
	wait_queue_entry_t owner = { .private = READ_ONCE(thread->owner) };

	return owner.private ? default_wake_function(&owner, mode, flags, key) : 0;
}

/* current's record in this proc, made on first use; NULL without memory. */
struct vb_thread *vb_thread_get(struct vb_proc *proc)
{
	u32 tid = task_pid_nr(current);
	struct vb_thread *thread;

	rcu_read_lock();
	thread = vb_thread_peek(proc, tid);
	rcu_read_unlock();
	if (thread)
		return thread;
	thread = kzalloc(sizeof(*thread), GFP_KERNEL_ACCOUNT);
	if (!thread)
		return NULL;
	thread->tid = tid;
	spin_lock_init(&thread->sched_lock);
	init_waitqueue_head(&thread->wait);
	init_waitqueue_func_entry(&thread->sleeper, vb_wake_owner);
	__add_wait_queue(&thread->wait, &thread->sleeper);
	init_waitqueue_head(&thread->poll_wait);
	if (xa_err(xa_store(&proc->threads, tid, thread, GFP_KERNEL_ACCOUNT))) {
		kfree(thread);
		return NULL;
	}
	smp_store_release(&proc->recent[tid % VB_RECENT], thread);
	return thread;
}

/*
 * After THREAD_EXIT: epoll instances may still be registered with the record.
 * The next ioctl or poll of this task makes a new one.
 */
void vb_thread_exit(struct vb_proc *proc, struct vb_thread *thread)
{
	cmpxchg(&proc->recent[thread->tid % VB_RECENT], thread, NULL);
	xa_erase(&proc->threads, thread->tid);
	vb_thread_free(thread);
}

/* The device is gone: wakes all who sleep in an ioctl or in poll. */
void vb_wake_everyone(struct vb_device *dev)
{
	struct vb_thread *thread;
	unsigned long id, tid;
	struct vb_proc *proc;

	rcu_read_lock();
	xa_for_each(&dev->procs, id, proc) {
		xa_for_each(&proc->threads, tid, thread) {
			wake_up_all(&thread->wait);
			wake_up_poll(&thread->poll_wait, EPOLLERR | EPOLLHUP);
		}
	}
	rcu_read_unlock();
}

/* The core has let go of the proc: so do we. Runs when RELEASE was answered. */
static void vb_release_work(struct work_struct *work)
{
	struct vb_proc *proc = container_of(work, struct vb_proc, release_work);
	struct vb_device *dev = proc->dev;
	struct vb_message *msg = proc->release_note;
	struct vb_thread *thread;
	struct vb_reply reply;
	unsigned long tid;
	int error;

	/* Further answers are waited for here. */
	msg->work = NULL;
	error = vb_answer(dev, msg, &reply);
	while (!error) {
		struct vb_continue *body;

		vb_do_actions(dev, &reply, NULL);
		if (le16_to_cpu(reply.answer.status) != VB_MORE)
			break;
		/* All that the proc had is gone; there are more files to let go. */
		body = vb_begin(msg, VB_CONTINUE, proc, 0, 0, 0, sizeof(*body));
		body->reason = cpu_to_le32(VB_CONT_MORE);
		error = vb_exchange(dev, msg, &reply);
		cond_resched();
	}
	if (error)
		wait_for_completion(&dev->ended);
	vb_settle(proc->flush_note);
	if (proc->mmap_note)
		vb_settle(proc->mmap_note);
	if (proc->unmap_note)
		vb_settle(proc->unmap_note);

	/* Not in the table when open failed half-way. */
	cmpxchg(&dev->recent[proc->id % VB_RECENT], proc, NULL);
	xa_cmpxchg(&dev->procs, proc->id, proc, NULL, 0);
	vb_pages_free(proc);
	xa_for_each(&proc->threads, tid, thread)
		vb_thread_exit(proc, thread);
	vb_proc_put(proc);
}

static struct vb_proc *vb_proc_new(struct vb_device *dev)
{
	struct vb_proc *proc = kzalloc(sizeof(*proc), GFP_KERNEL_ACCOUNT);

	if (!proc)
		return NULL;
	proc->flush_note = vb_message_get(GFP_KERNEL);
	proc->release_note = vb_message_get(GFP_KERNEL);
	if (!proc->flush_note || !proc->release_note) {
		vb_message_put(proc->flush_note);
		vb_message_put(proc->release_note);
		kfree(proc);
		return NULL;
	}
	kref_init(&proc->ref);
	vb_device_get(dev);
	proc->dev = dev;
	proc->tgid = task_tgid_nr(current);
	proc->tsk = current->group_leader;
	get_task_struct(proc->tsk);
	proc->mm = current->mm;
	mmgrab(proc->mm);
	xa_init(&proc->threads);
	mutex_init(&proc->pages_mutex);
	mutex_init(&proc->flush_mutex);
	INIT_WORK(&proc->release_work, vb_release_work);
	return proc;
}

/* Posts RELEASE; the rest is done when it was answered. */
static void vb_proc_release(struct vb_proc *proc)
{
	struct vb_message *msg = proc->release_note;

	mutex_lock(&proc->pages_mutex);
	/* No VMA is left that could show a page. */
	proc->mapping = NULL;
	mutex_unlock(&proc->pages_mutex);

	vb_begin(msg, VB_RELEASE, proc, 0, 0, 0, 0);
	msg->work = &proc->release_work;
	if (!vb_post(proc->dev, msg))
		return;
	msg->error = -EIO;
	queue_work(vb_wq, &proc->release_work);
}

static int vb_open_core(struct vb_proc *proc, const char *name, u32 device,
			struct vb_message *msg)
{
	struct vb_device *dev = proc->dev;
	struct vb_reply reply;
	struct vb_open *open;
	size_t length = strlen(name);
	void *at;
	int error;

	open = vb_begin(msg, VB_OPEN, proc, task_pid_nr(current), 0, 0,
			sizeof(*open));
	open->tgid = cpu_to_le32(proc->tgid);
	open->device = cpu_to_le32(device);
	open->default_nice = cpu_to_le32(task_nice(current));
	at = vb_take(msg, length);
	memcpy(at, name, length);
	open->name_offset = cpu_to_le32(vb_offset(msg, at));
	open->name_length = cpu_to_le32(length);
	vb_add_secctx(msg, open, proc->cred);

	error = vb_exchange(dev, msg, &reply);
	if (error)
		return error;
	if (le16_to_cpu(reply.answer.status) != VB_DONE) {
		vb_device_bug(dev, "OPEN was not answered with DONE");
		return -EIO;
	}
	error = (int)le32_to_cpu(reply.answer.error);
	if (error) {
		if (error == -ENOMEM || error == -EACCES || error == -EPERM)
			return error;
		vb_device_bug(dev, "OPEN has an unknown error");
		return -EIO;
	}
	if (!reply.answer.proc) {
		vb_device_bug(dev, "OPEN gave no id");
		return -EIO;
	}
	proc->id = le32_to_cpu(reply.answer.proc);
	error = xa_insert(&dev->procs, proc->id, proc, GFP_KERNEL);
	if (error == -EBUSY) {
		/* The id is another proc's: it is not ours to release. */
		vb_device_bug(dev, "OPEN gave an id that is in use");
		proc->id = 0;
		return -EIO;
	}
	if (!error)
		smp_store_release(&dev->recent[proc->id % VB_RECENT], proc);
	return error;
}

/*
 * Opens the context `name`, or the one of a binderfs device, and logs that in the
 * mount's `proc_logs`.
 */
static int vb_open(struct file *file, struct vb_device *dev, const char *name,
		   u32 device, struct dentry *proc_logs)
{
	struct vb_message *msg;
	struct vb_proc *proc;
	int error;

	if (vb_device_dead(dev))
		return -EIO;
	/* A kernel thread has no address space to serve. */
	if (!current->mm)
		return -EINVAL;
	msg = vb_message_get(GFP_KERNEL);
	if (!msg)
		return -ENOMEM;
	proc = vb_proc_new(dev);
	if (!proc) {
		vb_message_put(msg);
		return -ENOMEM;
	}
	proc->cred = get_cred(file->f_cred);
	proc->mapping = file->f_mapping;
	error = vb_open_core(proc, name, device, msg);
	vb_message_put(msg);
	if (error) {
		if (proc->id)
			vb_proc_release(proc);
		else
			vb_proc_put(proc);
		return error;
	}
	vb_logs_add(proc, proc_logs);
	file->private_data = proc;
	return 0;
}

static int vb_misc_open(struct inode *inode, struct file *file)
{
	struct vb_node *node = container_of(file->private_data, struct vb_node,
					    misc);

	return vb_open(file, node->dev, node->name, 0, NULL);
}

static int vb_fs_open(struct inode *inode, struct file *file)
{
	struct vb_fs_device *device = inode->i_private;
	int error = vb_fs_device_used(device);

	if (error)
		return error;
	return vb_open(file, device->dev, device->name, device->minor + 1,
		       vb_fs_proc_logs(inode));
}

/* Some descriptor of the file was closed: sleepers return (B028). */
static int vb_flush(struct file *file, fl_owner_t owner)
{
	struct vb_proc *proc = file->private_data;
	struct vb_message *msg = proc->flush_note;

	mutex_lock(&proc->flush_mutex);
	/* Two flushes must not become one: the second is a wake of its own. */
	vb_settle(msg);
	vb_begin(msg, VB_FLUSH, proc, 0, 0, 0, 0);
	vb_post(proc->dev, msg);
	mutex_unlock(&proc->flush_mutex);
	return 0;
}

static int vb_release(struct inode *inode, struct file *file)
{
	struct vb_proc *proc = file->private_data;

	vb_logs_remove(proc);
	vb_proc_release(proc);
	return 0;
}

/* Devices of both kinds do the same once they are open. */
#define VB_FOPS(how_to_open) {			\
	.owner = THIS_MODULE,			\
	.open = how_to_open,			\
	.flush = vb_flush,			\
	.release = vb_release,			\
	.poll = vb_poll,			\
	.mmap = vb_mmap,			\
	.unlocked_ioctl = vb_ioctl,		\
	.compat_ioctl = compat_ptr_ioctl,	\
}

const struct file_operations vb_fops = VB_FOPS(vb_misc_open);
const struct file_operations vb_fs_fops = VB_FOPS(vb_fs_open);

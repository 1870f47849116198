// SPDX-License-Identifier: GPL-2.0-only
/*
 * poll and epoll: the core says whether the caller's thread is readable, and
 * arms it. The next readiness is one POLL event, which wakes the thread's
 * poll_wait (queue.c); whoever watches polls again and so arms again.
 * No locks; the wait head lives as long as the thread record, which goes
 * through wake_up_pollfree() and a grace period.
 */
#include "shim.h"

__poll_t vb_poll(struct file *file, struct poll_table_struct *wait)
{
	struct vb_proc *proc = file->private_data;
	struct vb_device *dev = proc->dev;
	struct vb_thread *thread;
	struct vb_message *msg;
	struct vb_reply reply;
	__poll_t mask;
	u16 flags = 0;
	int error;

	if (vb_device_dead(dev))
		return EPOLLERR | EPOLLHUP;
	thread = vb_thread_get(proc);
	if (!thread)
		return EPOLLERR;
	/* First in line, then asked: an edge in between is not lost. */
	poll_wait(file, &thread->poll_wait, wait);

	msg = vb_message_get(GFP_KERNEL);
	if (!msg)
		return EPOLLERR;
	if (READ_ONCE(file->f_flags) & O_NONBLOCK)
		flags |= VB_MSG_NONBLOCK;
	vb_begin(msg, VB_POLL, proc, thread->tid, thread->seq, flags, 0);
	error = vb_exchange(dev, msg, &reply);
	if (error) {
		mask = EPOLLERR | EPOLLHUP;
	} else {
		vb_do_actions(dev, &reply, thread);
		if (reply.answer.error)
			mask = EPOLLERR;
		else
			mask = (__force __poll_t)le64_to_cpu(reply.answer.value) &
			       (EPOLLIN | EPOLLRDNORM | EPOLLERR | EPOLLHUP);
	}
	vb_message_put(msg);
	return mask;
}

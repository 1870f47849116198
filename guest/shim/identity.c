// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who is calling: what every header says of the caller, security contexts and
 * hooks, credentials in the reader's namespaces, nice values. No locks; all of
 * it runs in the caller's own context.
 */
#include <linux/cred.h>
#include <linux/jiffies.h>
#include <linux/pid_namespace.h>
#include <linux/sched/prio.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/rt.h>
#include <linux/security.h>
#include <linux/user_namespace.h>
#include <uapi/linux/sched/types.h>

#include "shim.h"

/* The value beside the policy: nice, or the real-time priority. */
static int vb_priority(void)
{
	switch (current->policy) {
	case SCHED_FIFO:
	case SCHED_RR:
		return current->rt_priority;
	default:
		return task_nice(current);
	}
}

/* For "elapsed" in the logs: a tick's exactness will do. */
static u32 vb_time(void)
{
	return jiffies_to_msecs(jiffies);
}

static u32 vb_secid(const struct cred *cred)
{
	u32 secid;

	security_cred_getsecid(cred, &secid);
	return secid;
}

/*
 * Starts a message: header and a zeroed body of `body` bytes, which is returned.
 * Both euids are those of this moment, not of open (B332).
 */
void *vb_begin(struct vb_message *msg, u16 kind, struct vb_proc *proc,
	       u32 tid, u64 seq, u16 flags, u32 body)
{
	struct vb_header *header = msg->out;

	if (!same_thread_group(proc->tsk, current))
		flags |= VB_MSG_FOREIGN;
	/* Hooks look at both (B342); remembered answers are the opener's. */
	if (proc->dev->lsm == VB_LSM_CACHE && current_cred() != proc->cred &&
	    vb_secid(current_cred()) != vb_secid(proc->cred))
		flags |= VB_MSG_OTHER_SID;
	msg->length = ALIGN(sizeof(*header) + body, 8);
	memset(header, 0, msg->length);
	header->kind = cpu_to_le16(kind);
	header->flags = cpu_to_le16(flags);
	header->epoch = cpu_to_le32(proc->dev->epoch);
	header->proc = cpu_to_le32(proc->id);
	header->tid = cpu_to_le32(tid);
	header->seq = cpu_to_le64(seq);
	/* As the initial namespace has them, without a look into its map. */
	header->leader_euid = cpu_to_le32(__kuid_val(task_euid(proc->tsk)));
	header->thread_euid = cpu_to_le32(__kuid_val(current_euid()));
	header->policy = cpu_to_le32(current->policy);
	header->prio = cpu_to_le32(vb_priority());
	header->time = cpu_to_le32(vb_time());
	/* A rename may run beside this; the reader takes any 16 bytes. */
	memcpy(header->comm, current->comm,
	       min(sizeof(header->comm), sizeof(current->comm)));
	return header + 1;
}

/* Starts a message that belongs to no proc. */
void *vb_begin_plain(struct vb_message *msg, u16 kind, struct vb_device *dev,
		     u32 body)
{
	struct vb_header *header = msg->out;

	msg->length = ALIGN(sizeof(*header) + body, 8);
	memset(header, 0, msg->length);
	header->kind = cpu_to_le16(kind);
	header->epoch = cpu_to_le32(dev->epoch);
	header->time = cpu_to_le32(vb_time());
	return header + 1;
}

/* Starts a message that belongs to an ioctl. */
void *vb_begin_call(struct vb_call *call, u16 kind, u32 body)
{
	u16 flags = call->flags;

	/* fcntl() may change it between two messages of one ioctl (B004). */
	if (READ_ONCE(call->file->f_flags) & O_NONBLOCK)
		flags |= VB_MSG_NONBLOCK;
	return vb_begin(call->msg, kind, call->proc, call->thread->tid,
			call->thread->seq, flags, body);
}

/* The security context of `cred` as text, or why there is none (B339). */
void vb_add_secctx(struct vb_message *msg, struct vb_open *open,
		   const struct cred *cred)
{
	char *text = NULL;
	u32 length = 0;
	int error;

	error = security_secid_to_secctx(vb_secid(cred), &text, &length);
	if (!error) {
		/* Some modules count the final NUL, some do not. */
		u32 bytes = strnlen(text, length);

		if (bytes <= vb_room(msg)) {
			void *at = vb_take(msg, bytes);

			memcpy(at, text, bytes);
			open->secctx_offset = cpu_to_le32(vb_offset(msg, at));
			open->secctx_length = cpu_to_le32(bytes);
		} else {
			error = -E2BIG;
		}
		security_release_secctx(text, length);
	}
	open->secctx_error = cpu_to_le32(error);
}

/*
 * Rewrites sender_pid and sender_euid, as the core wrote them for the initial
 * namespaces, for the reader. The pid is asked of the opener's task and not
 * translated from a number: of a task that was reaped it is 0, never a recycled
 * pid (B330). An euid without a name here becomes -1, as from_kuid() says.
 */
void vb_translate_creds(struct vb_device *dev, u8 *creds, u32 sender)
{
	u32 uid = get_unaligned_le32(creds + 4);
	struct vb_proc *proc;
	pid_t pid = 0;

	if (sender) {
		proc = vb_proc_find(dev, sender);
		if (proc) {
			pid = task_tgid_nr_ns(proc->tsk,
					      task_active_pid_ns(current));
			vb_proc_put(proc);
		}
		put_unaligned_le32(pid, creds);
	}
	if (current_user_ns() != &init_user_ns)
		uid = from_kuid(current_user_ns(), make_kuid(&init_user_ns, uid));
	put_unaligned_le32(uid, creds + 4);
}

/*
 * VB_ACT_NICE_*: as close to `nice` as the caller may go (B325). Like the
 * in-kernel driver: what RLIMIT_NICE allows is taken even where it is worse
 * than the present nice, and a limit of 0 (nice 20) changes nothing, because
 * set_user_nice() ignores values out of range.
 */
static void vb_set_nice(u32 kind, int nice)
{
	if (kind == VB_ACT_NICE_RAISE && task_nice(current) <= nice)
		return;
	if (can_nice(current, nice))
		set_user_nice(current, nice);
	else
		set_user_nice(current, rlimit_to_nice(rlimit(RLIMIT_NICE)));
}

/*
 * VB_ACT_SCHED, by the rules of the Android common kernel's driver: a checked
 * policy and priority are what the task's limits leave of them; without a
 * limit for real time it becomes an ordinary thread of the best nice.
 */
static void vb_set_sched(struct task_struct *task, u32 value)
{
	struct sched_attr attr = {
		.size = sizeof(attr),
		.sched_policy = value >> 8 & 0xff,
		.sched_flags = SCHED_FLAG_RESET_ON_FORK,
	};
	bool real_time = attr.sched_policy == SCHED_FIFO ||
			 attr.sched_policy == SCHED_RR;
	int priority = (s8)value;

	if (value & VB_SCHED_CHECKED &&
	    !has_capability_noaudit(task, CAP_SYS_NICE)) {
		long best_nice = rlimit_to_nice(task_rlimit(task, RLIMIT_NICE));
		int rtprio = task_rlimit(task, RLIMIT_RTPRIO);

		if (real_time && !rtprio) {
			attr.sched_policy = SCHED_NORMAL;
			priority = MIN_NICE;
			real_time = false;
		}
		if (real_time)
			priority = min(priority, rtprio);
		else if (best_nice > MAX_NICE)
			return;
		else
			priority = max_t(int, priority, best_nice);
	}
	if (real_time)
		attr.sched_priority = priority;
	else
		attr.sched_nice = priority;
	/* Fails only for a value out of range, which changes nothing. */
	sched_setattr_nocheck(task, &attr);
}

/*
 * To leave SCHED_DEADLINE may sleep, so its threads change themselves, without
 * the lock.
 */
static bool vb_changes_itself(struct task_struct *task)
{
	return READ_ONCE(task->policy) == SCHED_DEADLINE;
}

/*
 * VB_ACT_NICE_* and VB_ACT_SCHED of an answer, for the calling thread. The event
 * of its next work is newer: what the caller was to get back before it is void
 * then, whether or not the event's own has come into force (the in-kernel
 * driver's pending and aborted restores).
 */
void vb_schedule(struct vb_thread *thread, u32 kind, u32 value)
{
	if (kind != VB_ACT_SCHED) {
		vb_set_nice(kind, (int)value);
	} else if (vb_changes_itself(current)) {
		vb_set_sched(current, value);
	} else {
		spin_lock(&thread->sched_lock);
		if (smp_load_acquire(&thread->lent) == VB_LENT_NONE)
			vb_set_sched(current, value);
		spin_unlock(&thread->sched_lock);
	}
}

/* The scheduling action of the event that the calling thread takes. */
void vb_schedule_event(struct vb_thread *thread)
{
	u32 kind = le32_to_cpu(thread->event.nice_kind);
	u32 value = le32_to_cpu(thread->event.nice);
	enum vb_lent lent;

	if (!kind)
		return;
	spin_lock(&thread->sched_lock);
	lent = thread->lent;
	WRITE_ONCE(thread->lent, VB_LENT_NONE);
	spin_unlock(&thread->sched_lock);
	if (lent != VB_LENT_DONE)
		vb_schedule(thread, kind, value);
}

/*
 * Brings the SCHED of a thread's event into force for it. Does not sleep. Under
 * RCU, which keeps an owner that has just left its ioctl.
 */
void vb_lend(struct vb_thread *thread)
{
	struct task_struct *owner = READ_ONCE(thread->owner);

	if (!owner || vb_changes_itself(owner))
		return;
	spin_lock(&thread->sched_lock);
	if (smp_load_acquire(&thread->lent) == VB_LENT_DUE) {
		vb_set_sched(owner, le32_to_cpu(thread->event.nice));
		WRITE_ONCE(thread->lent, VB_LENT_DONE);
	}
	spin_unlock(&thread->sched_lock);
}

/*
 * The security policy was loaded, or is enforced from now on, or no longer: what
 * the core remembers of its answers is void before this returns.
 */
static int vb_policy_changed(struct notifier_block *block, unsigned long event,
			     void *data)
{
	struct vb_device *dev;
	struct vb_message *msg;
	struct vb_reply reply;

	if (event != LSM_POLICY_CHANGE)
		return NOTIFY_DONE;
	dev = vb_device_bound();
	if (!dev)
		return NOTIFY_DONE;
	if (dev->lsm == VB_LSM_CACHE) {
		/* Stale permissions are worse than a wait for memory. */
		msg = vb_message_get(GFP_KERNEL | __GFP_NOFAIL);
		vb_begin_plain(msg, VB_POLICY, dev, 0);
		vb_exchange(dev, msg, &reply);
		vb_message_put(msg);
	}
	vb_device_put(dev);
	return NOTIFY_OK;
}

static struct notifier_block vb_policy_notifier = {
	.notifier_call = vb_policy_changed,
};

int vb_policy_start(void)
{
	return register_blocking_lsm_notifier(&vb_policy_notifier);
}

void vb_policy_stop(void)
{
	unregister_blocking_lsm_notifier(&vb_policy_notifier);
}

/* One of VB_LSM_*; -EINVAL for a hook that does not exist. */
int vb_ask_lsm(struct vb_proc *from, u32 hook, struct vb_proc *to)
{
	switch (hook) {
	case VB_LSM_TRANSACTION:
		return security_binder_transaction(from->cred, to->cred);
	case VB_LSM_TRANSFER_BINDER:
		return security_binder_transfer_binder(from->cred, to->cred);
	default:
		return -EINVAL;
	}
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * File descriptors in transactions, and the actions an answer asks for.
 *
 * A token stands for one reference to an open file that a sender gave. The
 * table's own lock guards it; fget and fput run with no lock held. Tokens end
 * when their file was installed, by FPUT, or when the device is lost.
 */
#include <linux/fcntl.h>
#include <linux/module.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/task_work.h>

#include "shim.h"

/* Descriptors reserved by INSTALL: numbers that open nothing yet. */
struct vb_install {
	u32 count;
	struct {
		struct file *file;
		u32 token;
		int fd;
		bool gone;		/* so is its token */
	} entries[];
};

/* The file behind a token, with a reference, or NULL. */
static struct file *vb_token_file(struct vb_device *dev, u32 token)
{
	struct file *file;

	xa_lock(&dev->tokens);
	file = xa_load(&dev->tokens, token);
	if (file)
		get_file(file);
	xa_unlock(&dev->tokens);
	return file;
}

/* Lets a token's file go. One that is not known was installed: no error. */
void vb_token_put(struct vb_device *dev, u32 token)
{
	struct file *file = xa_erase(&dev->tokens, token);

	if (file)
		fput(file);
}

/* The device is lost: nobody will ask for these files again. */
void vb_tokens_put_all(struct vb_device *dev)
{
	struct file *file;
	unsigned long token;

	xa_for_each(&dev->tokens, token, file)
		vb_token_put(dev, token);
}

/*
 * Takes tokens for the sender's descriptors, in order, until one is refused:
 * -EBADF, or -EPERM from the security module, as the in-kernel driver says it
 * (B343). *done: how many were taken.
 */
int vb_send_files(struct vb_call *call, struct vb_proc *target,
		  const u8 *fds, u32 count, __le32 *tokens, u32 *done)
{
	struct vb_device *dev = call->dev;
	struct file *file;
	int error = 0;
	u32 token;

	for (*done = 0; *done < count; (*done)++) {
		file = fget(get_unaligned_le32(fds + *done * sizeof(__le32)));
		if (!file) {
			error = -EBADF;
			break;
		}
		if (security_binder_transfer_file(call->proc->cred, target->cred,
						  file) < 0) {
			fput(file);
			error = -EPERM;
			break;
		}
		/* Numbers return late: a stale token names nothing. */
		error = xa_alloc_cyclic(&dev->tokens, &token, file,
					XA_LIMIT(1, INT_MAX), &dev->next_token,
					GFP_KERNEL_ACCOUNT);
		if (error < 0) {
			fput(file);
			error = -ENOMEM;
			break;
		}
		/* 1: the numbers have wrapped. */
		error = 0;
		tokens[*done] = cpu_to_le32(token);
	}
	/* Whoever comes after the sweep of a lost device sweeps for himself. */
	if (vb_device_dead(dev))
		vb_tokens_put_all(dev);
	return error;
}

/* Gives the reserved numbers back. */
void vb_install_drop(struct vb_call *call)
{
	struct vb_install *install = call->install;
	u32 i;

	for (i = 0; i < install->count; i++) {
		put_unused_fd(install->entries[i].fd);
		fput(install->entries[i].file);
	}
	kvfree(install);
	call->install = NULL;
}

/*
 * The read is done: the numbers become descriptors, and their tokens end. A token
 * that is gone by now was let go with this very answer (FPUT), because the core
 * dropped the transaction after all: then its number opens nothing. Or the device
 * was lost: -EIO, and none of the numbers does.
 */
int vb_install_commit(struct vb_call *call)
{
	struct vb_install *install = call->install;
	struct file *token_file;
	bool gone = false;
	u32 i;

	for (i = 0; i < install->count; i++) {
		token_file = xa_erase(&call->dev->tokens, install->entries[i].token);
		install->entries[i].gone = !token_file;
		if (token_file)
			fput(token_file);
		else
			gone = true;
	}
	if (gone && vb_device_dead(call->dev)) {
		vb_install_drop(call);
		return -EIO;
	}
	for (i = 0; i < install->count; i++) {
		if (install->entries[i].gone) {
			put_unused_fd(install->entries[i].fd);
			fput(install->entries[i].file);
		} else {
			fd_install(install->entries[i].fd, install->entries[i].file);
		}
	}
	kvfree(install);
	call->install = NULL;
	return 0;
}

/* Reserves a number for each of the tokens at `list`; not all on an error. */
static int vb_reserve(struct vb_call *call, const u8 *list, u32 count)
{
	struct vb_install *install;

	install = kvmalloc(struct_size(install, entries, count),
			   GFP_KERNEL_ACCOUNT);
	if (!install)
		return -ENOMEM;
	install->count = 0;
	call->install = install;
	while (install->count < count) {
		u32 i = install->count;
		u32 token = get_unaligned_le32(list + i * sizeof(__le32));
		struct file *file = vb_token_file(call->dev, token);
		int fd;

		if (!file) {
			vb_device_bug(call->dev, "INSTALL of an unknown token");
			return -EBADF;
		}
		fd = get_unused_fd_flags(O_CLOEXEC);
		if (fd < 0) {
			fput(file);
			return fd;
		}
		install->entries[i].file = file;
		install->entries[i].token = token;
		install->entries[i].fd = fd;
		install->count++;
	}
	return 0;
}

/*
 * INSTALL in call->reply: reserves a number for each token, or none, and writes
 * the CONTINUE that names them. They are kept until the core says DONE; another
 * INSTALL, or a park, gives them back.
 */
int vb_install_reserve(struct vb_call *call)
{
	u32 count = le32_to_cpu(call->reply.answer.list_count);
	struct vb_continue *body;
	struct vb_result *result;
	const u8 *list;
	__le32 *numbers;
	int error;
	u32 i;

	list = vb_reply_at(&call->reply,
			   le32_to_cpu(call->reply.answer.list_offset), count,
			   sizeof(__le32));
	if (!list || !count || sizeof(struct vb_header) + sizeof(*body) +
	    sizeof(*result) + (u64)count * sizeof(__le32) > VB_PAGE_SIZE - 8) {
		vb_device_bug(call->dev, "INSTALL without a list that fits");
		return -EIO;
	}
	vb_install_undo(call);
	error = vb_reserve(call, list, count);
	if (error)
		vb_install_undo(call);
	/* The list may have stood in the event: the next one may come now. */
	smp_store_release(&call->thread->event_ready, false);

	if (!call->msg)
		call->msg = vb_message_get(GFP_KERNEL | __GFP_NOFAIL);
	body = vb_begin_call(call, VB_CONTINUE, sizeof(*body));
	body->reason = cpu_to_le32(VB_CONT_INSTALL);
	body->result_offset = cpu_to_le32(call->msg->length);
	body->result_count = cpu_to_le32(1);
	result = vb_take(call->msg, sizeof(*result));
	memset(result, 0, sizeof(*result));
	result->error = cpu_to_le32(error);
	if (error)
		return 0;
	numbers = vb_take(call->msg, count * sizeof(__le32));
	for (i = 0; i < count; i++)
		numbers[i] = cpu_to_le32(call->install->entries[i].fd);
	result->count = cpu_to_le32(count);
	result->offset = cpu_to_le32(vb_offset(call->msg, numbers));
	return 0;
}

/* Descriptors to close on the way back to user space. */
struct vb_closing {
	struct callback_head work;
	u32 count;
	int fds[];
};

static void vb_close_work(struct callback_head *work)
{
	struct vb_closing *closing = container_of(work, struct vb_closing, work);
	u32 i;

	for (i = 0; i < closing->count; i++)
		vb_close_fd(closing->fds[i]);
	kfree(closing);
	/* Before its code goes a module waits for all such sections. */
	rcu_read_lock();
	module_put(THIS_MODULE);
	rcu_read_unlock();
}

/*
 * The descriptors of FDA arrays whose buffer was freed (B220). One of them may
 * be the very descriptor of this ioctl, whose close would flush the proc: so
 * not now, but when the ioctl is over.
 */
static void vb_close_later(const u8 *list, u32 count)
{
	struct vb_closing *closing = NULL;
	struct vb_action action;
	u32 i;

	for (i = 0; i < count; i++) {
		memcpy(&action, list + i * sizeof(action), sizeof(action));
		if (le32_to_cpu(action.kind) != VB_ACT_CLOSE_FD)
			continue;
		if (!closing) {
			closing = kmalloc(struct_size(closing, fds, count),
					  GFP_KERNEL | __GFP_NOFAIL);
			closing->count = 0;
		}
		closing->fds[closing->count++] = (int)le32_to_cpu(action.value);
	}
	if (!closing)
		return;
	init_task_work(&closing->work, vb_close_work);
	/* The code must stay until it has run: the fd that holds it may go. */
	__module_get(THIS_MODULE);
	if (task_work_add(current, &closing->work, TWA_RESUME)) {
		/* The task exits, and closes all of its descriptors. */
		module_put(THIS_MODULE);
		kfree(closing);
	}
}

void vb_do_each_action(struct vb_device *dev, const struct vb_reply *reply,
		       struct vb_thread *thread)
{
	u32 count = le32_to_cpu(reply->answer.action_count);
	const u8 *list = vb_reply_at(reply,
				     le32_to_cpu(reply->answer.action_offset),
				     count, sizeof(struct vb_action));
	struct vb_action action;
	bool closes = false;
	u32 i;

	if (!list) {
		vb_device_bug(dev, "actions outside of the answer");
		return;
	}
	for (i = 0; i < count; i++) {
		u32 kind;

		memcpy(&action, list + i * sizeof(action), sizeof(action));
		kind = le32_to_cpu(action.kind);
		switch (kind) {
		case VB_ACT_NICE_SET:
		case VB_ACT_NICE_RAISE:
		case VB_ACT_SCHED:
			if (thread)
				vb_schedule(thread, kind,
					    le32_to_cpu(action.value));
			break;
		case VB_ACT_CLOSE_FD:
			closes = thread;
			break;
		case VB_ACT_FPUT:
			vb_token_put(dev, le32_to_cpu(action.value));
			break;
		default:
			vb_device_bug(dev, "unknown action");
		}
	}
	if (closes)
		vb_close_later(list, count);
}

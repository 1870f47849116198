/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The shim's records and what its files offer each other.
 *
 * Locks, outermost first:
 *   mmap_lock
 *   vb_proc.flush_mutex, or vb_proc.pages_mutex (never both)
 *   i_mmap_rwsem and page table locks, or vb_device.lock (irqs off)
 *   wait-queue locks
 * The xarrays' own locks are leaves, taken in process context only; the
 * interrupt path reads the xarrays under RCU. Nothing but TRIM waits for the
 * device with pages_mutex held. vb_device.end_mutex, binderfs' and the logs' own
 * locks nest in none of these. No user memory is touched under any but the lock of
 * a log's one reader.
 */
#ifndef VB_SHIM_H
#define VB_SHIM_H

#include <linux/completion.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/rcupdate.h>
#include <linux/scatterlist.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/virtio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <uapi/linux/android/binder.h>

#include "compat.h"
#include "virtio_binder.h"

#undef pr_fmt
#define pr_fmt(fmt) "virtio_binder: " fmt

/* Log2 of the slots of a mapping: 4 MiB (B007), and its range of page offsets. */
#define VB_SLOT_SHIFT		10
#define VB_MAPPING_MAX		(PAGE_SIZE << VB_SLOT_SHIFT)
/* Pages of the sender that one range can name. */
#define VB_WINDOW_PAGES		256
/* Pages of a message: what takes no more is copied, not named (gather.c). */
#define VB_OWN_ORDER		1
#define VB_OWN_PAGES		(1 << VB_OWN_ORDER)
/* User pages that an ioctl can name without memory to note them in. */
#define VB_FEW_PAGES		12
/* Records that are found without a walk through their xarray. */
#define VB_RECENT		16
/* Context names in the devices= parameter. */
#define VB_NODES_MAX		16
#define VB_NAME_MAX		64

/* One message: the two pages it travels in, and how its owner learns the end. */
struct vb_message {
	void *out;			/* the device's to read while posted */
	void *in;			/* the page behind it: the device's to write while posted */
	void *own;			/* VB_OWN_PAGES for copies of user pages; NULL: none yet */
	u32 own_used;			/* of these, by the ioctl under way */
	__le32 pfn;			/* of out */
	struct scatterlist sg[2];	/* the two, for the ring */
	u32 length;			/* bytes of out in use */
	u32 written;			/* bytes of in that the device wrote */
	int error;			/* -EIO: the device was lost */
	bool posted;			/* in the ring */
	struct completion done;
	struct work_struct *work;	/* queued when the answer is there, or NULL */
};

/* An answer, wherever it stands: a message's in page, or a thread's event. */
struct vb_reply {
	struct vb_answer answer;	/* our copy; lists and bytes stay in page */
	u8 *page;
	u32 size;
};

/* User pages, or copies of them, that messages of one ioctl named by PFN. */
struct vb_pins {
	unsigned int few_count;		/* of the first ones */
	struct page *few[VB_FEW_PAGES];
	struct list_head blocks;	/* of those for which there was no room */
};

/* Descriptors reserved by INSTALL, waiting for the ioctl's end (files.c). */
struct vb_install;

/* A device of binderfs; lives as long as its inode. */
struct vb_fs_device {
	struct vb_device *dev;		/* the mount's */
	char *name;			/* as it was made; NULL: binder-control */
	u32 minor;
	struct vb_message *end_note;	/* for CTX_DEL; NULL: never opened */
};

struct vb_node {
	struct miscdevice misc;
	struct vb_device *dev;
	char name[VB_NAME_MAX];
};

struct vb_device {
	struct kref ref;		/* the driver's, and one of every proc */
	struct rcu_head rcu;
	struct virtio_device *vdev;
	u32 epoch;
	u32 lsm;			/* VB_LSM_*: how the core asks */
	u64 features;			/* own ones, as negotiated */
	u32 driver;			/* VB_DRIVER_* */
	bool direct;			/* VB_F_DIRECT: requests stays empty */

	spinlock_t lock;		/* both rings, dead and in_flight */
	struct virtqueue *requests;
	struct virtqueue *events;
	bool dead;			/* set once, under lock; read anywhere */
	unsigned int in_flight;
	unsigned int capacity;

	wait_queue_head_t room;		/* posters that found the ring full */
	struct mutex end_mutex;		/* vb_device_end() runs once */
	struct completion ended;	/* the device was reset: it touches no memory of ours */
	struct work_struct end_work;

	struct xarray procs;		/* proc id -> struct vb_proc, RCU */
	struct vb_proc *recent[VB_RECENT];	/* some of them, by id % VB_RECENT */
	struct xarray tokens;		/* token -> struct file */
	u32 next_token;

	struct vb_event *event_buffers;	/* VB_QUEUE_SIZE, physically contiguous */

	unsigned int idle_pages;	/* what the core said last */
	unsigned int idle_least;	/* ... and the least of it since age_work ran */
	struct delayed_work age_work;
	atomic_long_t trim_wanted;
	struct work_struct trim_work;
	struct vb_message *trim_note;	/* memory for TRIM: reclaim must not allocate */
	struct shrinker *shrinker;

	struct mutex logs_mutex;	/* listed of all procs */

	atomic_t dropped_events;
	atomic_t protocol_errors;

	unsigned int node_count;
	struct vb_node nodes[VB_NODES_MAX];
};

/* One open of a binder device: what the core calls a proc. */
struct vb_proc {
	struct kref ref;		/* one until RELEASE was answered; lookups */
	struct rcu_head rcu;
	struct vb_device *dev;
	u32 id;

	/* The opener, for life (B002). */
	struct task_struct *tsk;	/* its thread group leader */
	struct mm_struct *mm;		/* for comparison only */
	u32 tgid;			/* initial pid namespace */
	const struct cred *cred;

	struct xarray threads;		/* global tid -> struct vb_thread, RCU */
	struct vb_thread *recent[VB_RECENT];	/* some of them, by tid % VB_RECENT */

	/*
	 * pages_mutex guards everything down to `gone`. It is held from looking
	 * at slots until the CONTINUE that names them is posted, and from
	 * posting TRIM until what it gave back is cleared and freed.
	 */
	struct mutex pages_mutex;
	struct page **slots;		/* NULL until mmap */
	unsigned int slot_count;
	struct address_space *mapping;	/* to zap from; NULL after release */
	bool gone;			/* RELEASE was answered */

	bool unmapped;			/* some part was unmapped; set once */

	/* proc/PID of the logs, where this open made it. */
	bool listed;
	struct dentry *debug_entry;
	struct dentry *log_entry;

	struct mutex flush_mutex;	/* owner of flush_note */
	struct vb_message *flush_note;
	struct vb_message *release_note;
	struct vb_message *mmap_note;
	struct vb_message *unmap_note;
	struct work_struct release_work;
};

/*
 * The SCHED of a thread's event. Whoever posted the message that woke the thread
 * changes its scheduling at once (B327): a caller in real time must not wait
 * until an ordinary thread has run to raise itself. DUE -> DONE by that poster, or
 * -> NONE by the owner when it takes the event.
 */
enum vb_lent { VB_LENT_NONE, VB_LENT_DUE, VB_LENT_DONE };

/*
 * One task in one proc. Only the task with that tid uses the record; the drain,
 * those who lend it their scheduling and the device's end reach it under RCU.
 */
struct vb_thread {
	struct rcu_head rcu;
	u32 tid;
	u64 seq;			/* of the ioctl under way, or the last one */
	wait_queue_head_t wait;		/* the owner, asleep in an ioctl */
	wait_queue_entry_t sleeper;	/* it stands in `wait` for life */
	wait_queue_head_t poll_wait;	/* who polls: epoll may outlive THREAD_EXIT */
	bool event_ready;		/* drain: false -> true; owner: back */
	struct vb_event event;		/* the owner's while event_ready */
	struct task_struct *owner;	/* current, for the time of an ioctl */
	spinlock_t sched_lock;		/* for SCHED of the owner, and: */
	enum vb_lent lent;		/* set DUE under vb_device.lock alone */
};

/* One ioctl on its way; lives on the stack of its task. */
struct vb_call {
	struct vb_device *dev;
	struct vb_proc *proc;
	struct vb_thread *thread;
	struct file *file;
	unsigned int cmd;
	void __user *arg;
	int arg_error;
	u16 flags;			/* VB_MSG_RBAD or 0 */
	bool write_done;		/* bwr.write_consumed is final */
	struct binder_write_read bwr;	/* of BINDER_WRITE_READ, else zeros */
	struct vb_message *msg;		/* NULL while asleep */
	struct vb_reply reply;
	struct vb_pins pins;
	struct vb_install *install;	/* NULL: none */
};

/* main.c */
extern struct workqueue_struct *vb_wq;
const char *vb_default_devices(void);
struct vb_device *vb_device_bound(void);
void vb_device_get(struct vb_device *dev);
void vb_device_put(struct vb_device *dev);
void vb_device_lost(struct vb_device *dev);
void vb_device_bug(struct vb_device *dev, const char *what);

static inline bool vb_device_dead(const struct vb_device *dev)
{
	return READ_ONCE(dev->dead);
}

/* queue.c */
struct vb_message *vb_message_get(gfp_t gfp);
void vb_message_put(struct vb_message *msg);
void vb_message_cache_empty(void);
int vb_post(struct vb_device *dev, struct vb_message *msg);
int vb_settle(struct vb_message *msg);
int vb_answer(struct vb_device *dev, struct vb_message *msg,
	      struct vb_reply *reply);
int vb_exchange(struct vb_device *dev, struct vb_message *msg,
		struct vb_reply *reply);
void vb_drain(struct vb_device *dev, bool sync);
int vb_post_event_buffers(struct vb_device *dev);
void vb_fail_in_flight(struct vb_device *dev);

/* Where `count` things of `size` bytes stand in the answer's page, or NULL. */
static inline u8 *vb_reply_at(const struct vb_reply *reply, u32 offset,
			      u32 count, u32 size)
{
	if (offset > reply->size || (u64)count * size > reply->size - offset)
		return NULL;
	return reply->page + offset;
}

/* Takes `bytes` of the out page; the caller has looked at vb_room(). */
static inline void *vb_take(struct vb_message *msg, u32 bytes)
{
	void *at = msg->out + msg->length;

	msg->length += ALIGN(bytes, 8);
	return at;
}

static inline u32 vb_room(const struct vb_message *msg)
{
	return msg->length < VB_PAGE_SIZE ? VB_PAGE_SIZE - msg->length : 0;
}

static inline u32 vb_offset(const struct vb_message *msg, const void *at)
{
	return at - msg->out;
}

/* identity.c */
void *vb_begin(struct vb_message *msg, u16 kind, struct vb_proc *proc,
	       u32 tid, u64 seq, u16 flags, u32 body);
void *vb_begin_plain(struct vb_message *msg, u16 kind, struct vb_device *dev,
		     u32 body);
void *vb_begin_call(struct vb_call *call, u16 kind, u32 body);
void vb_add_secctx(struct vb_message *msg, struct vb_open *open,
		   const struct cred *cred);
void vb_translate_creds(struct vb_device *dev, u8 *creds, u32 sender);
int vb_policy_start(void);
void vb_policy_stop(void);
void vb_schedule(struct vb_thread *thread, u32 kind, u32 value);
void vb_schedule_event(struct vb_thread *thread);
void vb_lend(struct vb_thread *thread);
int vb_ask_lsm(struct vb_proc *from, u32 hook, struct vb_proc *to);

/* file.c */
extern const struct file_operations vb_fops;
extern const struct file_operations vb_fs_fops;
struct vb_proc *vb_proc_peek(struct vb_device *dev, u32 id);
struct vb_proc *vb_proc_find(struct vb_device *dev, u32 id);
struct vb_proc *vb_proc_next(struct vb_device *dev, unsigned long *id);
void vb_proc_put(struct vb_proc *proc);
struct vb_thread *vb_thread_peek(struct vb_proc *proc, u32 tid);
struct vb_thread *vb_thread_get(struct vb_proc *proc);
void vb_thread_exit(struct vb_proc *proc, struct vb_thread *thread);
void vb_wake_everyone(struct vb_device *dev);

/* ioctl.c */
long vb_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* gather.c */
void vb_pins_init(struct vb_pins *pins);
void vb_pins_put(struct vb_pins *pins);
size_t vb_copy_in(void *to, u64 address, size_t length);
int vb_gather_range(struct vb_message *msg, struct vb_pins *pins, u64 address,
		    u64 length, u32 room, struct vb_range *range);
void vb_gather_chunk(struct vb_message *msg, struct vb_pins *pins,
		     const struct binder_write_read *bwr, u64 position,
		     struct vb_chunk *chunk);

/* needs.c */
int vb_answer_needs(struct vb_call *call);

/* pages.c */
int vb_mmap(struct file *file, struct vm_area_struct *vma);
int vb_pages_prepare(struct list_head *fresh, u32 count);
int vb_pages_supply(struct vb_proc *proc, struct list_head *fresh,
		    const u8 *slots, u32 count, __le64 *pfns);
void vb_pages_drop(struct list_head *fresh);
void vb_pages_free(struct vb_proc *proc);
void vb_note_idle(struct vb_device *dev, u32 pages);
int vb_shrinking_start(struct vb_device *dev);
void vb_shrinking_stop(struct vb_device *dev);

/* files.c */
int vb_install_reserve(struct vb_call *call);
int vb_install_commit(struct vb_call *call);
void vb_install_drop(struct vb_call *call);
int vb_send_files(struct vb_call *call, struct vb_proc *target,
		  const u8 *fds, u32 count, __le32 *tokens, u32 *done);
void vb_token_put(struct vb_device *dev, u32 token);
void vb_tokens_put_all(struct vb_device *dev);
void vb_do_each_action(struct vb_device *dev, const struct vb_reply *reply,
		       struct vb_thread *thread);

/* binderfs.c */
int vb_fs_start(void);
void vb_fs_stop(void);
int vb_fs_device_used(struct vb_fs_device *device);
struct dentry *vb_fs_proc_logs(struct inode *inode);
struct dentry *vb_fs_create_file(struct dentry *dir, const char *name,
				 const struct file_operations *fops, void *data);
struct dentry *vb_fs_create_dir(struct dentry *dir, const char *name);

/* logs.c */
int vb_logs_fill(struct vb_device *dev, struct dentry *root, struct dentry **proc);
void vb_logs_add(struct vb_proc *proc, struct dentry *dir);
void vb_logs_remove(struct vb_proc *proc);
void vb_debugfs_fill(struct vb_device *dev);
void vb_debugfs_empty(void);
void vb_debugfs_start(void);
void vb_debugfs_stop(void);

/* poll.c */
__poll_t vb_poll(struct file *file, struct poll_table_struct *wait);

/* What an ordinary call has nothing of. */

/* Lets go of all user pages. */
static inline void vb_pins_free(struct vb_pins *pins)
{
	if (pins->few_count || !list_empty(&pins->blocks))
		vb_pins_put(pins);
}

/* Gives the reserved descriptor numbers back. */
static inline void vb_install_undo(struct vb_call *call)
{
	if (call->install)
		vb_install_drop(call);
}

/*
 * Does what the answer asks for, in its order. Only in an ioctl or poll of a
 * thread itself are nice and descriptors the caller's; else `thread` is NULL.
 */
static inline void vb_do_actions(struct vb_device *dev, const struct vb_reply *reply,
				 struct vb_thread *thread)
{
	if (reply->answer.action_count)
		vb_do_each_action(dev, reply, thread);
}

#endif

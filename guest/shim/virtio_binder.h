/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT */
/*
 * virtio-binder: the wire format between the guest's shim and the host's core.
 *
 * PROTOCOL.md beside this file is the specification; this header is its byte
 * layout. All fields are little endian and naturally aligned. Reserved fields
 * are zero. A message is always two pages: one page out (struct
 * vb_header, then the body of its kind, then whatever the body's offsets name)
 * and one page in (struct vb_answer and what its offsets name). Offsets count
 * bytes from the start of the page they stand in. Bodies start at byte 64.
 */
#ifndef VIRTIO_BINDER_H
#define VIRTIO_BINDER_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdint.h>
typedef uint8_t __u8;
typedef uint16_t __le16;
typedef uint32_t __le32;
typedef uint64_t __le64;
#endif

#define VB_DEVICE_ID		63
#define VB_VERSION		1
#define VB_PAGE_SIZE		4096
#define VB_REQUEST_QUEUE	0	/* 256 entries */
#define VB_EVENT_QUEUE		1	/* 256 entries, buffers of 256 bytes */
#define VB_QUEUE_SIZE		256
#define VB_EVENT_SIZE		256
#define VB_EVENT_HEAD		64	/* bytes of an event before its `bytes` */

/*
 * Feature bit: when the doorbell write of queue 0 returns, every message
 * posted before it is answered and every event that fits is in the ring, and
 * no interrupt was raised for them.
 */
#define VB_F_INLINE		0
/* Feature bit: devices of binderfs (vb_open.device, CTX_DEL), LOG, vb_config.driver. */
#define VB_F_BINDERFS		1
/* Feature bit: attempt-acquire, which no Linux driver has; accepted only where it is asked for. */
#define VB_F_ATTEMPT_ACQUIRE	2
/*
 * Feature bit, only with VB_F_INLINE: a message may be posted without queue 0, by writing the page
 * frame number of its out page to vb_config.post. Its in page is the next one, and is filled when
 * that write returns; the answer carries events.
 */
#define VB_F_DIRECT		3

/* struct vb_config.driver: what the driver that the host follows has */
#define VB_DRIVER_FREEZE_NOTIFICATION	1	/* features/freeze_notification */
#define VB_DRIVER_HASHED_LOGS		2	/* state_hashed, transactions_hashed */

/* struct vb_config.lsm */
#define VB_LSM_OFF		0	/* never ask */
#define VB_LSM_CACHE		1	/* remember answers until the policy changes */
#define VB_LSM_ASK		2	/* ask for every transaction and object */

struct vb_config {
	__le32 version;		/* VB_VERSION */
	__le32 epoch;		/* counts resets of the device, from 1 */
	__le32 lsm;		/* VB_LSM_* */
	__le32 max_procs;	/* limits of this guest; beyond: ENOMEM */
	__le32 max_threads;
	__le32 max_files;	/* file descriptors in one transaction */
	__le32 driver;		/* VB_DRIVER_* bits; with VB_F_BINDERFS */
	__le32 post;		/* written: a message's page frame number; with VB_F_DIRECT */
};

/* struct vb_header.kind. Waited for: */
#define VB_OPEN			1
#define VB_IOCTL		2
#define VB_CONTINUE		3
#define VB_CANCEL		4
#define VB_TIMEOUT		5
#define VB_FETCH		6
#define VB_POLL			7
#define VB_TRIM			8
#define VB_READ_FAULT		9
#define VB_POLICY		10	/* no body: the security policy has changed */
#define VB_CTX_DEL		11	/* with VB_F_BINDERFS */
#define VB_LOG			12	/* with VB_F_BINDERFS */
/* Notes: posted, not waited for. */
#define VB_MMAP			32
#define VB_UNMAP		33
#define VB_FLUSH		34
#define VB_RELEASE		36

/* struct vb_header.flags */
#define VB_MSG_NONBLOCK		1	/* O_NONBLOCK is set on the file now */
#define VB_MSG_FOREIGN		2	/* caller is not of the opener's thread group */
#define VB_MSG_RBAD		4	/* the read buffer cannot be written: EFAULT */
#define VB_MSG_OTHER_SID	8	/* VB_LSM_CACHE: the caller's security id is not the opener's */

struct vb_header {
	__le16 kind;		/* VB_OPEN ... */
	__le16 flags;		/* VB_MSG_* */
	__le32 epoch;		/* as read from the config space at probe */
	__le32 proc;		/* the id that OPEN was answered with; 0 in OPEN */
	__le32 tid;		/* caller's tid in the initial pid namespace; 0: no thread */
	__le64 seq;		/* counts the ioctls of a thread from 1; what belongs to one carries its seq */
	__le32 leader_euid;	/* euid of the opener's group leader now, initial user namespace */
	__le32 thread_euid;	/* euid of the caller, initial user namespace */
	__le32 policy;		/* the caller's SCHED_* policy */
	__le32 prio;		/* signed: nice for SCHED_NORMAL/BATCH/IDLE, else the real-time priority */
	__le32 length;		/* bytes used of the out page, this header included */
	__le32 time;		/* ms of the monotonic clock, wraps: "elapsed" of the logs */
	__u8 comm[16];		/* the caller's name (task comm), NUL-padded; for traces only */
};

/* Body of VB_OPEN. */
struct vb_open {
	__le32 tgid;		/* opener's thread group, initial pid namespace */
	__le32 default_nice;	/* signed: nice of the opening thread */
	__le32 name_offset;	/* context name ("binder"), without NUL */
	__le32 name_length;
	__le32 secctx_offset;	/* security context of the file's credentials, without NUL */
	__le32 secctx_length;	/* 0: none; then secctx_error says why */
	__le32 secctx_error;	/* signed: errno of security_secid_to_secctx, 0 or negative */
	__le32 device;		/* of binderfs: its minor + 1; 0: the device with that name */
};

/* struct vb_chunk.end */
#define VB_CHUNK_LAST		0	/* ends at write_size */
#define VB_CHUNK_CUT		1	/* more follows; the read half waits */
#define VB_CHUNK_UNREADABLE	2	/* the next byte cannot be read */

/* A piece of the write stream: whole commands, but for a last one that is cut short by write_size. */
struct vb_chunk {
	__le64 position;	/* write_consumed of the first byte */
	__le32 offset;
	__le32 length;
	__le32 end;		/* VB_CHUNK_* */
	__le32 range_offset;	/* struct vb_range[range_count] */
	__le32 range_count;
	__le32 reserved;
};

/* struct vb_range.form */
#define VB_RANGE_NONE		0	/* carries nothing: nothing of it is readable, or it did not fit */
#define VB_RANGE_INLINE		1	/* `readable` bytes stand at `offset` */
#define VB_RANGE_PFNS		2	/* le64 page frame numbers at `offset`; the first byte is at
					 * (address % 4096) of the first page */
/* struct vb_range.flags */
#define VB_RANGE_FAULT		1	/* the byte at address + readable cannot be read */

/* Sender's memory that a command of the chunk names: data, offsets, or what a NEED asked for. */
struct vb_range {
	__le64 address;		/* user address of the first byte */
	__le64 length;		/* bytes named from there */
	__le64 readable;	/* bytes of these that this message carries, from the start */
	__le16 form;		/* VB_RANGE_* */
	__le16 flags;
	__le32 offset;
};

/* Body of VB_IOCTL. */
struct vb_ioctl {
	__le32 cmd;		/* the ioctl number as the caller gave it */
	__le32 arg_error;	/* signed: 0, or -EFAULT when the argument cannot be read */
	__u8 arg[48];		/* _IOC_SIZE(cmd) bytes of the argument, if they fit; else zeros */
	__le32 lsm_error;	/* signed: security_binder_set_context_mgr for SET_CONTEXT_MGR[_EXT] */
	__le32 reserved;
	struct vb_chunk chunk;	/* BINDER_WRITE_READ only */
};

/* struct vb_continue.reason */
#define VB_CONT_MORE		1	/* after MORE: the next chunk, or the next page of a read */
#define VB_CONT_NEEDS		2	/* after NEEDS: one struct vb_result a need, in order */
#define VB_CONT_INSTALL		3	/* after INSTALL: one struct vb_result, with the new numbers */

/* Body of VB_CONTINUE. */
struct vb_continue {
	__le32 reason;		/* VB_CONT_* */
	__le32 result_offset;	/* struct vb_result[result_count] */
	__le32 result_count;
	__le32 reserved;
	struct vb_chunk chunk;	/* VB_CONT_MORE of a write half */
};

/* What became of one need. */
struct vb_result {
	__le32 error;		/* signed: 0 or negative errno */
	__le32 count;		/* PAGES: le64 PFNs at `offset`, one a slot asked for; FILES: le32 tokens of
				 * the files got before the error; INSTALL: le32 fd numbers */
	__le32 offset;
	__le32 reserved;
	struct vb_range range;	/* DATA */
};

/* Body of VB_TRIM. */
struct vb_trim {
	__le32 max;		/* pages wanted back at most */
	__le32 reserved;
};

/* Body of VB_CTX_DEL: a device of binderfs that no file has open is gone. */
struct vb_ctx_del {
	__le32 device;		/* as in struct vb_open */
	__le32 reserved;
};

/* struct vb_log.text */
#define VB_TEXT_STATE			1
#define VB_TEXT_STATE_HASHED		2
#define VB_TEXT_STATS			3
#define VB_TEXT_TRANSACTIONS		4
#define VB_TEXT_TRANSACTIONS_HASHED	5
#define VB_TEXT_TRANSACTION_LOG		6
#define VB_TEXT_FAILED_TRANSACTION_LOG	7
#define VB_TEXT_PROC			8

/* Body of VB_LOG: the device writes the text into the pages; less than they hold: it ends there. */
struct vb_log {
	__le32 text;		/* VB_TEXT_* */
	__le32 pid;		/* VB_TEXT_PROC */
	__le64 skip;		/* bytes of the text that come before */
	__le32 page_offset;	/* le64 PFNs[page_count], at most VB_LOG_PAGES */
	__le32 page_count;
	__le64 reserved;
};
#define VB_LOG_PAGES		500

/* Body of VB_READ_FAULT. */
struct vb_read_fault {
	__le64 offset;		/* of the first byte of the last result that could not be copied out */
};

/* Body of VB_MMAP. */
struct vb_mmap {
	__le64 address;		/* of the mapping in the opener's address space */
	__le64 length;		/* bytes, not more than 4 MiB */
};

/* struct vb_answer.status */
#define VB_DONE			1
#define VB_MORE			2	/* post VB_CONTINUE for the same thread */
#define VB_NEEDS		3	/* list: struct vb_need */
#define VB_INSTALL		4	/* list: le32 tokens; reserve as many fds, or none */
#define VB_PARKED		5	/* sleep until the event, a signal, or timeout_ms */
#define VB_TOO_LATE		6	/* of VB_CANCEL and VB_TIMEOUT: the event is on its way */

/* struct vb_answer.park */
#define VB_PARK_READ		1
#define VB_PARK_FREEZE		2

#define VB_NO_CREDS		0xffffffff

/* The in page of every message. */
struct vb_answer {
	__le16 status;		/* VB_DONE ... */
	__le16 park;		/* VB_PARK_* */
	__le32 epoch;
	__le32 error;		/* signed: result of the ioctl or open, 0 or negative errno */
	__le32 proc;		/* VB_OPEN: the new id, never 0 */
	__le64 write_consumed;	/* BINDER_WRITE_READ */
	__le64 read_consumed;	/* BINDER_WRITE_READ, valid with error 0 */
	__le64 value;		/* VB_POLL: EPOLL* mask; VB_LOG: bytes written */
	__le64 result_position;	/* BINDER_WRITE_READ: offset in the read buffer of the result bytes */
	__le32 result_offset;	/* bytes for the caller: of the read buffer, or the ioctl's argument */
	__le32 result_length;
	__le32 first_word;	/* not 0: write this word over the first of the read buffer (SPAWN_LOOPER) */
	__le32 creds_offset;	/* in the result bytes: sender_pid, then sender_euid; or VB_NO_CREDS */
	__le32 creds_proc;	/* whose opener sender_pid is; 0: sender_pid stays 0 */
	__le32 timeout_ms;	/* VB_PARK_FREEZE */
	__le32 list_offset;	/* needs, tokens, or the le32 slots that VB_TRIM gives back */
	__le32 list_count;
	__le32 action_offset;	/* struct vb_action[action_count], to be done in order */
	__le32 action_count;
	__le32 idle_pages;	/* pages of this guest that TRIM could give back */
	__le16 event_offset;	/* struct vb_event[event_count], each VB_EVENT_HEAD bytes, then `length` */
	__le16 event_count;	/* padded to 8; of messages posted to vb_config.post alone */
};

/* struct vb_need.kind */
#define VB_NEED_DATA		1	/* bytes of the caller's memory */
#define VB_NEED_PAGES		2	/* pages for slots of proc's mapping; at most 256 a message */
#define VB_NEED_FILES		3	/* tokens for the caller's fds, to be sent to proc */
#define VB_NEED_LSM		4	/* may the caller's proc do this to proc */

/* struct vb_need.lsm */
#define VB_LSM_TRANSACTION	1	/* security_binder_transaction */
#define VB_LSM_TRANSFER_BINDER	2	/* security_binder_transfer_binder */

struct vb_need {
	__le16 kind;		/* VB_NEED_* */
	__le16 lsm;		/* VB_LSM_* */
	__le32 proc;		/* PAGES, FILES, LSM: the target */
	__le64 address;		/* DATA */
	__le64 length;		/* DATA; the shim may answer with less (readable, no FAULT) */
	__le32 offset;		/* PAGES: le32 slots; FILES: le32 fd numbers */
	__le32 count;
};

/* struct vb_action.kind */
#define VB_ACT_NICE_SET		1	/* value: the new nice of the caller */
#define VB_ACT_NICE_RAISE	2	/* value: a nice to take only if it is better than the present one */
#define VB_ACT_CLOSE_FD		3	/* value: an fd of the caller, closed when the message is over */
#define VB_ACT_FPUT		4	/* value: a token whose file is let go */
#define VB_ACT_SCHED		5	/* value: VB_SCHED_*: the caller's new policy and priority */

/* struct vb_action.value of VB_ACT_SCHED; bits 0 to 7: nice or real-time priority, signed; 8 to 15: SCHED_* policy */
#define VB_SCHED_CHECKED	0x10000	/* within RLIMIT_NICE and RLIMIT_RTPRIO */

struct vb_action {
	__le32 kind;		/* VB_ACT_* */
	__le32 value;		/* signed for nice; VB_SCHED_* */
};

/* struct vb_event.kind */
#define VB_EV_DONE		1	/* the parked ioctl is done */
#define VB_EV_INSTALL		2	/* the parked read wants fds: le32 tokens in bytes */
#define VB_EV_POLL		3	/* the armed poll of this thread has become ready */

/* struct vb_event.flags */
#define VB_EV_MORE_EVENTS	1	/* no buffer is left: repost this one, then kick queue 1 */
#define VB_EV_FETCH		2	/* the rest did not fit: post VB_FETCH, its answer is the result */

struct vb_event {
	__le16 kind;		/* VB_EV_* */
	__le16 flags;
	__le32 epoch;
	__le32 proc;
	__le32 tid;
	__le64 seq;
	__le32 error;		/* signed */
	__le32 length;		/* of bytes; VB_EV_INSTALL: 4 x tokens */
	__le64 read_consumed;
	__le32 creds_offset;	/* as in struct vb_answer */
	__le32 creds_proc;
	__le32 first_word;
	__le32 nice_kind;	/* VB_ACT_NICE_SET, VB_ACT_NICE_RAISE, VB_ACT_SCHED, or 0: none */
	__le32 nice;		/* the action's value */
	__le32 idle_pages;
	__u8 bytes[192];
};

#endif

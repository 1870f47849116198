// SPDX-License-Identifier: GPL-2.0-only
/*
 * Log files: state, stats, transactions and so on, below debugfs and binderfs.
 *
 * The host writes a text into pages that the reader brings; the reader keeps them
 * until it begins anew at offset 0 or closes the file. A reader's lock guards
 * its pages; logs_mutex of the device decides which open of a pid makes proc/PID.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "shim.h"

/* Pages that a text begins with, and that one reader may hold: 64 KiB, 16 MiB. */
#define VB_TEXT_PAGES_FIRST	16
#define VB_TEXT_PAGES_MAX	4096

struct vb_reader {
	struct vb_device *dev;
	u32 text;			/* VB_TEXT_* */
	u32 pid;
	struct mutex lock;		/* everything below */
	struct page **pages;
	unsigned int page_count;
	size_t length;			/* of the text */
	bool read;			/* there is a text */
};

static const struct vb_log_name {
	const char *name;
	u32 text;
	u32 driver;			/* VB_DRIVER_* bit that it takes, or 0 */
} vb_log_names[] = {
	{ "state", VB_TEXT_STATE },
	{ "state_hashed", VB_TEXT_STATE_HASHED, VB_DRIVER_HASHED_LOGS },
	{ "stats", VB_TEXT_STATS },
	{ "transactions", VB_TEXT_TRANSACTIONS },
	{ "transactions_hashed", VB_TEXT_TRANSACTIONS_HASHED, VB_DRIVER_HASHED_LOGS },
	{ "transaction_log", VB_TEXT_TRANSACTION_LOG },
	{ "failed_transaction_log", VB_TEXT_FAILED_TRANSACTION_LOG },
};

/* Of the module: entries of procs may outlive the device. */
static struct dentry *vb_debug_root, *vb_debug_proc;
static struct dentry *vb_debug_files[ARRAY_SIZE(vb_log_names)];

static void vb_pages_put(struct vb_reader *reader)
{
	while (reader->page_count)
		__free_page(reader->pages[--reader->page_count]);
}

/* Brings the reader to `count` pages; they are zeroed, so nothing leaks. */
static int vb_pages_get(struct vb_reader *reader, unsigned int count)
{
	struct page **pages;

	pages = kvcalloc(count, sizeof(*pages), GFP_KERNEL_ACCOUNT);
	if (!pages)
		return -ENOMEM;
	if (reader->page_count)
		memcpy(pages, reader->pages, reader->page_count * sizeof(*pages));
	kvfree(reader->pages);
	reader->pages = pages;
	while (reader->page_count < count) {
		struct page *page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);

		if (!page)
			return -ENOMEM;
		pages[reader->page_count++] = page;
	}
	return 0;
}

/* Asks for the text from page `first` on; the number of bytes that came, or an errno. */
static ssize_t vb_text_ask(struct vb_reader *reader, struct vb_message *msg,
			   unsigned int first)
{
	unsigned int i, count = min_t(unsigned int, reader->page_count - first,
				      VB_LOG_PAGES);
	struct vb_reply reply;
	struct vb_log *body;
	__le64 *pfns;
	u64 bytes;
	int error;

	body = vb_begin_plain(msg, VB_LOG, reader->dev, sizeof(*body));
	body->text = cpu_to_le32(reader->text);
	body->pid = cpu_to_le32(reader->pid);
	body->skip = cpu_to_le64((u64)first << PAGE_SHIFT);
	pfns = vb_take(msg, count * sizeof(*pfns));
	body->page_offset = cpu_to_le32(vb_offset(msg, pfns));
	body->page_count = cpu_to_le32(count);
	for (i = 0; i < count; i++)
		pfns[i] = cpu_to_le64(page_to_pfn(reader->pages[first + i]));
	error = vb_exchange(reader->dev, msg, &reply);
	if (error)
		return error;
	bytes = le64_to_cpu(reply.answer.value);
	if (le16_to_cpu(reply.answer.status) != VB_DONE ||
	    reply.answer.error || bytes > (u64)count << PAGE_SHIFT) {
		vb_device_bug(reader->dev, "LOG was not answered with a text");
		return -EIO;
	}
	return bytes;
}

/*
 * Takes a new text. One that fits one message is of one moment: it is asked for
 * anew with more pages, not read on.
 */
static int vb_text_read(struct vb_reader *reader)
{
	struct vb_message *msg = vb_message_get(GFP_KERNEL);
	unsigned int want = VB_TEXT_PAGES_FIRST, first = 0;
	ssize_t bytes;
	int error;

	BUILD_BUG_ON(sizeof(struct vb_header) + sizeof(struct vb_log) +
		     VB_LOG_PAGES * sizeof(__le64) > VB_PAGE_SIZE);
	if (!msg)
		return -ENOMEM;
	reader->read = false;
	for (;;) {
		error = vb_pages_get(reader, max(want, reader->page_count));
		if (error)
			break;
		bytes = vb_text_ask(reader, msg, first);
		if (bytes < 0) {
			error = bytes;
			break;
		}
		reader->length = ((size_t)first << PAGE_SHIFT) + bytes;
		if (reader->length < (size_t)reader->page_count << PAGE_SHIFT &&
		    bytes < (ssize_t)VB_LOG_PAGES << PAGE_SHIFT) {
			reader->read = true;
			break;
		}
		if (want < VB_LOG_PAGES) {
			want = VB_LOG_PAGES;
		} else if (want < VB_TEXT_PAGES_MAX) {
			first += VB_LOG_PAGES;
			want = min(want + VB_LOG_PAGES, VB_TEXT_PAGES_MAX);
		} else {
			/* Longer than anybody wants to read: cut. */
			reader->read = true;
			break;
		}
	}
	vb_message_put(msg);
	return error;
}

static ssize_t vb_log_read(struct file *file, char __user *buf, size_t count,
			   loff_t *at)
{
	struct vb_reader *reader = file->private_data;
	size_t done = 0;
	int error = 0;

	mutex_lock(&reader->lock);
	/* As seq_file: from the beginning it is a new text. */
	if (*at == 0 || !reader->read)
		error = vb_text_read(reader);
	while (!error && done < count && *at < reader->length) {
		size_t offset = offset_in_page(*at);
		size_t now = min3((size_t)PAGE_SIZE - offset, count - done,
				  (size_t)(reader->length - *at));
		void *page = page_address(reader->pages[*at >> PAGE_SHIFT]);

		now -= copy_to_user(buf + done, page + offset, now);
		if (!now)
			error = -EFAULT;
		done += now;
		*at += now;
	}
	mutex_unlock(&reader->lock);
	return done ? (ssize_t)done : error;
}

static int vb_reader_open(struct file *file, u32 text, u32 pid)
{
	struct vb_reader *reader = kzalloc(sizeof(*reader), GFP_KERNEL_ACCOUNT);

	if (!reader)
		return -ENOMEM;
	reader->dev = vb_device_bound();
	if (!reader->dev) {
		kfree(reader);
		return -EIO;
	}
	reader->text = text;
	reader->pid = pid;
	mutex_init(&reader->lock);
	file->private_data = reader;
	return 0;
}

static int vb_log_open(struct inode *inode, struct file *file)
{
	return vb_reader_open(file, (unsigned long)inode->i_private, 0);
}

static int vb_proc_log_open(struct inode *inode, struct file *file)
{
	return vb_reader_open(file, VB_TEXT_PROC, (unsigned long)inode->i_private);
}

static int vb_log_release(struct inode *inode, struct file *file)
{
	struct vb_reader *reader = file->private_data;

	vb_pages_put(reader);
	kvfree(reader->pages);
	vb_device_put(reader->dev);
	kfree(reader);
	return 0;
}

static const struct file_operations vb_log_fops = {
	.owner = THIS_MODULE,
	.open = vb_log_open,
	.read = vb_log_read,
	.llseek = no_seek_end_llseek,
	.release = vb_log_release,
};

static const struct file_operations vb_proc_log_fops = {
	.owner = THIS_MODULE,
	.open = vb_proc_log_open,
	.read = vb_log_read,
	.llseek = no_seek_end_llseek,
	.release = vb_log_release,
};

/* binder_logs/ of a mount; `*proc` becomes its proc/. */
int vb_logs_fill(struct vb_device *dev, struct dentry *root, struct dentry **proc)
{
	struct dentry *dir = vb_fs_create_dir(root, "binder_logs");
	unsigned int i;

	if (IS_ERR(dir))
		return PTR_ERR(dir);
	for (i = 0; i < ARRAY_SIZE(vb_log_names); i++) {
		const struct vb_log_name *log = &vb_log_names[i];
		struct dentry *file;

		if (log->driver & ~dev->driver)
			continue;
		file = vb_fs_create_file(dir, log->name, &vb_log_fops,
					 (void *)(unsigned long)log->text);
		if (IS_ERR(file))
			return PTR_ERR(file);
	}
	dir = vb_fs_create_dir(dir, "proc");
	if (IS_ERR(dir))
		return PTR_ERR(dir);
	*proc = dir;
	return 0;
}

/*
 * proc/PID, made by the first open of a pid in debugfs and in the mount of that
 * device, `dir`; later opens find it there, or not (B417).
 */
void vb_logs_add(struct vb_proc *proc, struct dentry *dir)
{
	void *data = (void *)(unsigned long)proc->tgid;
	struct vb_proc *other;
	bool known = false;
	unsigned long id;
	char name[12];

	if (!(proc->dev->features & BIT(VB_F_BINDERFS)))
		return;
	snprintf(name, sizeof(name), "%u", proc->tgid);
	mutex_lock(&proc->dev->logs_mutex);
	rcu_read_lock();
	xa_for_each(&proc->dev->procs, id, other)
		known |= other->listed && other->tgid == proc->tgid;
	rcu_read_unlock();
	proc->listed = true;
	if (!known) {
		proc->debug_entry = debugfs_create_file(name, 0444, vb_debug_proc,
							data, &vb_proc_log_fops);
		if (dir) {
			struct dentry *entry;

			entry = vb_fs_create_file(dir, name, &vb_proc_log_fops,
						  data);
			if (!IS_ERR(entry))
				proc->log_entry = entry;
		}
	}
	mutex_unlock(&proc->dev->logs_mutex);
}

/* The file is released; its mount is still there. */
void vb_logs_remove(struct vb_proc *proc)
{
	debugfs_remove(proc->debug_entry);
	proc->debug_entry = NULL;
	if (proc->log_entry)
		simple_recursive_removal(proc->log_entry, NULL);
	proc->log_entry = NULL;
}

/* Without debugfs the calls do nothing. */
void vb_debugfs_fill(struct vb_device *dev)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(vb_log_names); i++) {
		const struct vb_log_name *log = &vb_log_names[i];

		if (log->driver & ~dev->driver)
			continue;
		vb_debug_files[i] = debugfs_create_file(log->name, 0444,
			vb_debug_root, (void *)(unsigned long)log->text,
			&vb_log_fops);
	}
}

void vb_debugfs_empty(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(vb_log_names); i++) {
		debugfs_remove(vb_debug_files[i]);
		vb_debug_files[i] = NULL;
	}
}

void vb_debugfs_start(void)
{
	vb_debug_root = debugfs_create_dir("binder", NULL);
	vb_debug_proc = debugfs_create_dir("proc", vb_debug_root);
}

void vb_debugfs_stop(void)
{
	debugfs_remove(vb_debug_root);
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * binderfs: the filesystem "binder", whose files are binder devices.
 *
 * A mount is a world of its own: binder-control makes devices, each with a minor
 * that no other live device of any mount has. What a device leads to is the
 * core's: OPEN names it by its minor, CTX_DEL says that it is gone. Rules and
 * errors are those of the in-kernel binderfs (BINDER.md 10). vb_minors_mutex
 * guards the minors of all mounts and the counts of devices.
 */
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/fsnotify.h>
#include <linux/idr.h>
#include <linux/ipc_namespace.h>
#include <linux/magic.h>
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/nsproxy.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/statfs.h>
#include <linux/user_namespace.h>
#include <uapi/linux/android/binderfs.h>

#include "shim.h"

#define VB_FS_MINORS		(1U << MINORBITS)
/* Kept for the initial IPC namespace (B398). */
#define VB_FS_MINORS_KEPT	4
#define VB_FS_ROOT_INODE	1
#define VB_FS_CONTROL_INODE	2
#define VB_FS_INODES		3	/* before the devices' (B406) */

struct vb_fs_options {
	u32 max;
	bool stats;			/* stats=global */
};

struct vb_fs {
	struct vb_device *dev;
	struct vb_fs_options options;
	bool initial_ipc;
	kuid_t uid;
	kgid_t gid;
	unsigned int devices;		/* counted by max= */
	struct dentry *control;
	struct dentry *proc_logs;	/* NULL without stats=global */
};

static dev_t vb_fs_region;
static bool vb_fs_registered;
static DEFINE_MUTEX(vb_minors_mutex);
static DEFINE_IDA(vb_minors);

static inline struct vb_fs *vb_fs_of(const struct super_block *sb)
{
	return sb->s_fs_info;
}

static int vb_minor_get(const struct vb_fs *fs)
{
	unsigned int kept = fs->initial_ipc ? 0 : VB_FS_MINORS_KEPT;

	return ida_alloc_max(&vb_minors, VB_FS_MINORS - kept - 1, GFP_KERNEL);
}

static void vb_fs_device_free(struct vb_fs *fs, struct vb_fs_device *device)
{
	mutex_lock(&vb_minors_mutex);
	if (device->name)
		fs->devices--;
	ida_free(&vb_minors, device->minor);
	mutex_unlock(&vb_minors_mutex);
	kfree(device->name);
	kfree(device);
}

/* A char device of the mount; `name` is NULL for binder-control. */
static struct inode *vb_fs_device_new(struct super_block *sb, const char *name)
{
	struct vb_fs *fs = vb_fs_of(sb);
	struct vb_fs_device *device;
	struct inode *inode;
	int minor = -ENOSPC;

	mutex_lock(&vb_minors_mutex);
	if (!name || fs->devices < fs->options.max)
		minor = vb_minor_get(fs);
	if (minor >= 0 && name)
		fs->devices++;
	mutex_unlock(&vb_minors_mutex);
	if (minor < 0)
		return ERR_PTR(minor);

	device = kzalloc(sizeof(*device), GFP_KERNEL_ACCOUNT);
	if (device && name)
		device->name = kstrdup(name, GFP_KERNEL_ACCOUNT);
	if (!device || (name && !device->name)) {
		kfree(device);
		mutex_lock(&vb_minors_mutex);
		if (name)
			fs->devices--;
		ida_free(&vb_minors, minor);
		mutex_unlock(&vb_minors_mutex);
		return ERR_PTR(-ENOMEM);
	}
	device->dev = fs->dev;
	device->minor = minor;

	inode = new_inode(sb);
	if (!inode) {
		vb_fs_device_free(fs, device);
		return ERR_PTR(-ENOMEM);
	}
	inode->i_ino = name ? minor + VB_FS_INODES : VB_FS_CONTROL_INODE;
	vb_inode_now(inode);
	init_special_inode(inode, S_IFCHR | 0600,
			   MKDEV(MAJOR(vb_fs_region), minor));
	inode->i_uid = fs->uid;
	inode->i_gid = fs->gid;
	inode->i_private = device;
	return inode;
}

static void vb_fs_evict(struct inode *inode)
{
	struct vb_fs_device *device = inode->i_private;

	clear_inode(inode);
	if (!S_ISCHR(inode->i_mode) || !device)
		return;
	if (device->end_note) {
		struct vb_message *msg = device->end_note;
		struct vb_ctx_del *body;
		struct vb_reply reply;

		/* No file is open: every RELEASE was posted before this. */
		body = vb_begin_plain(msg, VB_CTX_DEL, device->dev, sizeof(*body));
		body->device = cpu_to_le32(device->minor + 1);
		if (!vb_exchange(device->dev, msg, &reply) && reply.answer.error)
			vb_device_bug(device->dev, "CTX_DEL was refused");
		vb_message_put(msg);
	}
	vb_fs_device_free(vb_fs_of(inode->i_sb), device);
}

/* The first open of a device: from here on the core may know it. */
int vb_fs_device_used(struct vb_fs_device *device)
{
	struct vb_message *msg;

	if (READ_ONCE(device->end_note))
		return 0;
	msg = vb_message_get(GFP_KERNEL);
	if (!msg)
		return -ENOMEM;
	if (cmpxchg(&device->end_note, NULL, msg))
		vb_message_put(msg);
	return 0;
}

/* Where the opens of a device of this mount are logged, or NULL. */
struct dentry *vb_fs_proc_logs(struct inode *inode)
{
	return vb_fs_of(inode->i_sb)->proc_logs;
}

/* A new name in a directory of ours, whose inode is locked on success. */
static struct dentry *vb_fs_name(struct dentry *dir, const char *name)
{
	struct dentry *dentry;

	inode_lock(d_inode(dir));
	dentry = lookup_one_len(name, dir, strlen(name));
	if (!IS_ERR(dentry) && d_really_is_positive(dentry)) {
		dput(dentry);
		dentry = ERR_PTR(-EEXIST);
	}
	if (IS_ERR(dentry))
		inode_unlock(d_inode(dir));
	return dentry;
}

static struct inode *vb_fs_inode(struct super_block *sb, umode_t mode)
{
	struct inode *inode = new_inode(sb);

	if (inode) {
		inode->i_ino = iunique(sb, VB_FS_MINORS + VB_FS_INODES);
		inode->i_mode = mode;
		vb_inode_now(inode);
	}
	return inode;
}

/* The dentry stays pinned: it lives as long as its mount, or until it is removed. */
struct dentry *vb_fs_create_file(struct dentry *dir, const char *name,
				 const struct file_operations *fops, void *data)
{
	struct dentry *dentry = vb_fs_name(dir, name);
	struct inode *inode;

	if (IS_ERR(dentry))
		return dentry;
	inode = vb_fs_inode(dir->d_sb, S_IFREG | 0444);
	if (inode) {
		inode->i_fop = fops;
		inode->i_private = data;
		d_instantiate(dentry, inode);
		fsnotify_create(d_inode(dir), dentry);
	} else {
		dput(dentry);
		dentry = ERR_PTR(-ENOMEM);
	}
	inode_unlock(d_inode(dir));
	return dentry;
}

struct dentry *vb_fs_create_dir(struct dentry *dir, const char *name)
{
	struct dentry *dentry = vb_fs_name(dir, name);
	struct inode *inode;

	if (IS_ERR(dentry))
		return dentry;
	inode = vb_fs_inode(dir->d_sb, S_IFDIR | 0755);
	if (inode) {
		inode->i_fop = &simple_dir_operations;
		inode->i_op = &simple_dir_inode_operations;
		set_nlink(inode, 2);
		d_instantiate(dentry, inode);
		inc_nlink(d_inode(dir));
		fsnotify_mkdir(d_inode(dir), dentry);
	} else {
		dput(dentry);
		dentry = ERR_PTR(-ENOMEM);
	}
	inode_unlock(d_inode(dir));
	return dentry;
}

/*
 * Makes a device. Its numbers are told before its name is looked at, so that they
 * are there also where the name is taken (B402).
 */
static int vb_fs_add(struct super_block *sb, struct binderfs_device *request,
		     struct binderfs_device __user *user)
{
	struct dentry *dentry;
	struct inode *inode;

	request->name[BINDERFS_MAX_NAME] = '\0';
	inode = vb_fs_device_new(sb, request->name);
	if (IS_ERR(inode))
		return PTR_ERR(inode);
	inode->i_fop = &vb_fs_fops;
	request->major = imajor(inode);
	request->minor = iminor(inode);
	if (user && copy_to_user(user, request, sizeof(*request))) {
		iput(inode);
		return -EFAULT;
	}
	dentry = vb_fs_name(sb->s_root, request->name);
	if (IS_ERR(dentry)) {
		iput(inode);
		return PTR_ERR(dentry);
	}
	d_instantiate(dentry, inode);
	fsnotify_create(d_inode(sb->s_root), dentry);
	inode_unlock(d_inode(sb->s_root));
	return 0;
}

static long vb_control_ioctl(struct file *file, unsigned int cmd,
			     unsigned long arg)
{
	struct binderfs_device __user *user = (void __user *)arg;
	struct binderfs_device request;

	if (cmd != BINDER_CTL_ADD)
		return -EINVAL;
	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	return vb_fs_add(file_inode(file)->i_sb, &request, user);
}

static const struct file_operations vb_control_fops = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
	.unlocked_ioctl = vb_control_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static int vb_fs_add_control(struct super_block *sb)
{
	struct inode *inode = vb_fs_device_new(sb, NULL);
	struct dentry *dentry;

	if (IS_ERR(inode))
		return PTR_ERR(inode);
	inode->i_fop = &vb_control_fops;
	dentry = d_alloc_name(sb->s_root, "binder-control");
	if (!dentry) {
		iput(inode);
		return -ENOMEM;
	}
	vb_fs_of(sb)->control = dentry;
	d_add(dentry, inode);
	return 0;
}

static bool vb_is_control(const struct dentry *dentry)
{
	return vb_fs_of(dentry->d_sb)->control == dentry;
}

static int vb_fs_unlink(struct inode *dir, struct dentry *dentry)
{
	if (vb_is_control(dentry))
		return -EPERM;
	return simple_unlink(dir, dentry);
}

static int vb_fs_rename(vb_idmap_t *idmap, struct inode *from_dir,
			struct dentry *from, struct inode *to_dir,
			struct dentry *to, unsigned int flags)
{
	if (vb_is_control(from) || vb_is_control(to))
		return -EPERM;
	return simple_rename(idmap, from_dir, from, to_dir, to, flags);
}

static const struct inode_operations vb_fs_root_operations = {
	.lookup = simple_lookup,
	.rename = vb_fs_rename,
	.unlink = vb_fs_unlink,
};

static int vb_feature_show(struct seq_file *seq, void *unused)
{
	seq_puts(seq, "1\n");
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vb_feature);

/* What is absent here is absent from the driver (B413, B414). */
static int vb_fs_add_features(struct super_block *sb)
{
	static const struct {
		const char *name;
		u32 driver;
	} features[] = {
		{ "oneway_spam_detection" },
		{ "extended_error" },
		{ "freeze_notification", VB_DRIVER_FREEZE_NOTIFICATION },
	};
	struct dentry *dir = vb_fs_create_dir(sb->s_root, "features");
	unsigned int i;

	if (IS_ERR(dir))
		return PTR_ERR(dir);
	for (i = 0; i < ARRAY_SIZE(features); i++) {
		struct dentry *file;

		if (features[i].driver & ~vb_fs_of(sb)->dev->driver)
			continue;
		file = vb_fs_create_file(dir, features[i].name,
					 &vb_feature_fops, NULL);
		if (IS_ERR(file))
			return PTR_ERR(file);
	}
	return 0;
}

/* One device for each name of the module's parameter (B389). */
static int vb_fs_add_defaults(struct super_block *sb)
{
	const char *at = vb_default_devices();

	while (*at) {
		size_t length = strcspn(at, ",");

		if (length) {
			struct binderfs_device *request;
			int error;

			if (length > BINDERFS_MAX_NAME)
				return -E2BIG;
			request = kzalloc(sizeof(*request), GFP_KERNEL);
			if (!request)
				return -ENOMEM;
			memcpy(request->name, at, length);
			error = vb_fs_add(sb, request, NULL);
			kfree(request);
			if (error)
				return error;
		}
		at += length;
		if (*at)
			at++;
	}
	return 0;
}

static int vb_fs_show_options(struct seq_file *seq, struct dentry *root)
{
	const struct vb_fs *fs = vb_fs_of(root->d_sb);

	seq_printf(seq, ",max=%u", fs->options.max);
	if (fs->options.stats)
		seq_puts(seq, ",stats=global");
	return 0;
}

static const struct super_operations vb_fs_super_operations = {
	.evict_inode = vb_fs_evict,
	.show_options = vb_fs_show_options,
	.statfs = simple_statfs,
};

static int vb_fs_fill(struct super_block *sb, struct fs_context *fc)
{
	struct vb_fs *fs = kzalloc(sizeof(*fs), GFP_KERNEL_ACCOUNT);
	struct inode *root;
	int error;

	if (!fs)
		return -ENOMEM;
	sb->s_fs_info = fs;
	fs->dev = vb_device_bound();
	if (!fs->dev)
		return -ENODEV;
	if (!(fs->dev->features & BIT(VB_F_BINDERFS)))
		return -EOPNOTSUPP;
	fs->options = *(struct vb_fs_options *)fc->fs_private;
	/* init_ipc_ns itself is not exported. */
	fs->initial_ipc = current->nsproxy->ipc_ns == init_task.nsproxy->ipc_ns;
	fs->uid = make_kuid(sb->s_user_ns, 0);
	if (!uid_valid(fs->uid))
		fs->uid = GLOBAL_ROOT_UID;
	fs->gid = make_kgid(sb->s_user_ns, 0);
	if (!gid_valid(fs->gid))
		fs->gid = GLOBAL_ROOT_GID;

	sb->s_blocksize = PAGE_SIZE;
	sb->s_blocksize_bits = PAGE_SHIFT;
	sb->s_magic = BINDERFS_SUPER_MAGIC;
	sb->s_op = &vb_fs_super_operations;
	sb->s_time_gran = 1;
	/*
	 * Devices work in the mount of a user namespace, too: none can be made
	 * here but those of binder, and mknod(2) is not among the operations.
	 */
	sb->s_iflags &= ~SB_I_NODEV;
	sb->s_iflags |= SB_I_NOEXEC;

	root = new_inode(sb);
	if (!root)
		return -ENOMEM;
	root->i_ino = VB_FS_ROOT_INODE;
	root->i_mode = S_IFDIR | 0755;
	root->i_fop = &simple_dir_operations;
	root->i_op = &vb_fs_root_operations;
	vb_inode_now(root);
	set_nlink(root, 2);
	sb->s_root = d_make_root(root);
	if (!sb->s_root)
		return -ENOMEM;

	error = vb_fs_add_control(sb);
	if (!error)
		error = vb_fs_add_defaults(sb);
	if (!error)
		error = vb_fs_add_features(sb);
	if (!error && fs->options.stats)
		error = vb_logs_fill(fs->dev, sb->s_root, &fs->proc_logs);
	return error;
}

static void vb_fs_kill(struct super_block *sb)
{
	struct vb_fs *fs = vb_fs_of(sb);

	/* The inodes that go here still need it. */
	kill_litter_super(sb);
	if (fs && fs->dev)
		vb_device_put(fs->dev);
	kfree(fs);
}

enum { VB_OPTION_MAX, VB_OPTION_STATS };

static const struct constant_table vb_stats_modes[] = {
	{ "global", 1 },
	{}
};

static const struct fs_parameter_spec vb_fs_parameters[] = {
	fsparam_u32("max", VB_OPTION_MAX),
	fsparam_enum("stats", VB_OPTION_STATS, vb_stats_modes),
	{}
};

static int vb_fs_parse(struct fs_context *fc, struct fs_parameter *param)
{
	struct vb_fs_options *options = fc->fs_private;
	struct fs_parse_result result;
	int option = fs_parse(fc, vb_fs_parameters, param, &result);

	switch (option) {
	case VB_OPTION_MAX:
		if (result.uint_32 > VB_FS_MINORS)
			return invalfc(fc, "max is more than %u", VB_FS_MINORS);
		options->max = result.uint_32;
		return 0;
	case VB_OPTION_STATS:
		/* The logs tell of all processes. */
		if (!capable(CAP_SYS_ADMIN))
			return -EPERM;
		options->stats = true;
		return 0;
	default:
		return option;
	}
}

static int vb_fs_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, vb_fs_fill);
}

static int vb_fs_reconfigure(struct fs_context *fc)
{
	const struct vb_fs_options *options = fc->fs_private;
	struct vb_fs *fs = vb_fs_of(fc->root->d_sb);

	if (fs->options.stats != options->stats)
		return invalfc(fc, "stats cannot be changed by a remount");
	fs->options.max = options->max;
	return 0;
}

static void vb_fs_context_free(struct fs_context *fc)
{
	kfree(fc->fs_private);
}

static const struct fs_context_operations vb_fs_context_operations = {
	.free = vb_fs_context_free,
	.get_tree = vb_fs_get_tree,
	.parse_param = vb_fs_parse,
	.reconfigure = vb_fs_reconfigure,
};

static int vb_fs_context_init(struct fs_context *fc)
{
	struct vb_fs_options *options = kzalloc(sizeof(*options), GFP_KERNEL);

	if (!options)
		return -ENOMEM;
	options->max = VB_FS_MINORS;
	fc->fs_private = options;
	fc->ops = &vb_fs_context_operations;
	return 0;
}

static struct file_system_type vb_fs_type = {
	.owner = THIS_MODULE,
	.name = "binder",
	.init_fs_context = vb_fs_context_init,
	.parameters = vb_fs_parameters,
	.kill_sb = vb_fs_kill,
	.fs_flags = FS_USERNS_MOUNT,
};
MODULE_ALIAS_FS("binder");

int vb_fs_start(void)
{
	int error = alloc_chrdev_region(&vb_fs_region, 0, VB_FS_MINORS, "binder");

	if (error)
		return error;
	error = register_filesystem(&vb_fs_type);
	if (error) {
		/* A kernel with binderfs of its own: the misc devices still work. */
		pr_warn("no binderfs: %d (the kernel has one?)\n", error);
		unregister_chrdev_region(vb_fs_region, VB_FS_MINORS);
		return 0;
	}
	vb_fs_registered = true;
	return 0;
}

void vb_fs_stop(void)
{
	if (!vb_fs_registered)
		return;
	unregister_filesystem(&vb_fs_type);
	unregister_chrdev_region(vb_fs_region, VB_FS_MINORS);
	ida_destroy(&vb_minors);
}

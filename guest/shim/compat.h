/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between the kernels the shim is built for: Debian 12's 6.1 and
 * the 6.12 of its backports. No other file asks for a kernel version.
 */
#ifndef VB_COMPAT_H
#define VB_COMPAT_H

#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/version.h>
#include <linux/virtio_config.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#include <linux/unaligned.h>
#else
#include <asm/unaligned.h>
#endif

/* A VMA's flags are changed through helpers since 6.3. */
static inline void vb_vma_flags(struct vm_area_struct *vma,
				unsigned long set, unsigned long clear)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_mod(vma, set, clear);
#else
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
#endif
}

/* Two queues; find_vqs takes one array of structs since 6.11. */
static inline int vb_find_queues(struct virtio_device *vdev,
				 struct virtqueue *queues[2],
				 vq_callback_t *request, vq_callback_t *event)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	struct virtqueue_info infos[2] = {
		{ .name = "request", .callback = request },
		{ .name = "event", .callback = event },
	};

	return virtio_find_vqs(vdev, 2, queues, infos, NULL);
#else
	vq_callback_t *callbacks[2] = { request, event };
	static const char * const names[2] = { "request", "event" };

	return virtio_find_vqs(vdev, 2, queues, callbacks, names, NULL);
#endif
}

typedef unsigned long vb_shrink_fn(struct shrinker *shrinker,
				   struct shrink_control *sc);

/* Shrinkers are allocated by the kernel since 6.7. */
static inline struct shrinker *vb_shrinker_start(vb_shrink_fn *count,
						 vb_shrink_fn *scan)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	struct shrinker *shrinker = shrinker_alloc(0, "virtio-binder");

	if (!shrinker)
		return NULL;
	shrinker->count_objects = count;
	shrinker->scan_objects = scan;
	shrinker_register(shrinker);
	return shrinker;
#else
	struct shrinker *shrinker = kzalloc(sizeof(*shrinker), GFP_KERNEL);

	if (!shrinker)
		return NULL;
	shrinker->count_objects = count;
	shrinker->scan_objects = scan;
	shrinker->seeks = DEFAULT_SEEKS;
	if (register_shrinker(shrinker, "virtio-binder")) {
		kfree(shrinker);
		return NULL;
	}
	return shrinker;
#endif
}

static inline void vb_shrinker_stop(struct shrinker *shrinker)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	shrinker_free(shrinker);
#else
	unregister_shrinker(shrinker);
	kfree(shrinker);
#endif
}

/* A new inode's three times. */
static inline void vb_inode_now(struct inode *inode)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	simple_inode_init_ts(inode);
#else
	inode->i_ctime = current_time(inode);
	inode->i_atime = inode->i_ctime;
	inode->i_mtime = inode->i_ctime;
#endif
}

/* What rename is told of the mount, since 6.3. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
typedef struct mnt_idmap vb_idmap_t;
#else
typedef struct user_namespace vb_idmap_t;
#endif

/* close(2) of one of current's descriptors; one that is not open is left alone. */
static inline void vb_close_fd(unsigned int fd)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	struct file *file = file_close_fd(fd);
#else
	struct file *file = close_fd_get_file(fd);
#endif

	if (file)
		filp_close(file, current->files);
}

#endif

// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio_binder: /dev/binder, answered by a driver on the host.
 *
 * This file owns the module, the virtio device from probe to remove, and its
 * end: vb_device_end() runs once, under end_mutex, whatever the reason (remove,
 * NEEDS_RESET, a broken queue). PROTOCOL.md beside it is the specification.
 */
#include <linux/gfp.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>

#include "shim.h"

static char *devices = "binder,hwbinder,vndbinder";
module_param(devices, charp, 0444);
MODULE_PARM_DESC(devices, "comma-separated names of the binder devices, in /dev and in each binderfs");

static bool misc = true;
module_param(misc, bool, 0444);
MODULE_PARM_DESC(misc, "whether the devices are in /dev, too");

static bool attempt_acquire;
module_param(attempt_acquire, bool, 0444);
MODULE_PARM_DESC(attempt_acquire, "OpenBinder's attempt-acquire commands, which no Linux driver has");

struct workqueue_struct *vb_wq;

/* The names of the devices are the system's: one virtio device can have them. */
static atomic_t vb_bound = ATOMIC_INIT(0);

/* The device that mounts and log files lead to, from the end of probe on. */
static struct vb_device *vb_current;
static DEFINE_MUTEX(vb_current_mutex);

static void vb_set_current(struct vb_device *dev)
{
	mutex_lock(&vb_current_mutex);
	vb_current = dev;
	mutex_unlock(&vb_current_mutex);
}

/* The device, with a reference, or NULL. */
struct vb_device *vb_device_bound(void)
{
	struct vb_device *dev;

	mutex_lock(&vb_current_mutex);
	dev = vb_current;
	if (dev)
		vb_device_get(dev);
	mutex_unlock(&vb_current_mutex);
	return dev;
}

const char *vb_default_devices(void)
{
	return devices;
}

static void vb_device_free(struct kref *ref)
{
	struct vb_device *dev = container_of(ref, struct vb_device, ref);

	xa_destroy(&dev->procs);
	xa_destroy(&dev->tokens);
	free_pages_exact(dev->event_buffers, VB_QUEUE_SIZE * VB_EVENT_SIZE);
	/* A poster may still be on its way out of the drain. */
	kfree_rcu(dev, rcu);
}

void vb_device_get(struct vb_device *dev)
{
	kref_get(&dev->ref);
}

void vb_device_put(struct vb_device *dev)
{
	kref_put(&dev->ref, vb_device_free);
}

/* Counts what the device must not do, and says it. Any context. */
void vb_device_bug(struct vb_device *dev, const char *what)
{
	atomic_inc(&dev->protocol_errors);
	pr_err_ratelimited("protocol error: %s\n", what);
}

/*
 * The device does not work any more: ends it soon. Callers are sections that
 * cannot be preempted, or the config interrupt: so either vb_device_end() waits
 * for them, and its caller cancels the work, or they see that it is dead.
 */
void vb_device_lost(struct vb_device *dev)
{
	if (!vb_device_dead(dev))
		schedule_work(&dev->end_work);
}

/*
 * After this the device touches no memory of ours, every message is back, every
 * sleeper awake with -EIO, and files can only be closed.
 */
static void vb_device_end(struct vb_device *dev)
{
	unsigned long flags;

	mutex_lock(&dev->end_mutex);
	if (!completion_done(&dev->ended)) {
		spin_lock_irqsave(&dev->lock, flags);
		WRITE_ONCE(dev->dead, true);
		spin_unlock_irqrestore(&dev->lock, flags);
		/* Posters and drains are sections that cannot be preempted. */
		synchronize_rcu();
		virtio_reset_device(dev->vdev);
		vb_fail_in_flight(dev);
		complete_all(&dev->ended);
		vb_wake_everyone(dev);
		vb_tokens_put_all(dev);
		WRITE_ONCE(dev->idle_pages, 0);
	}
	mutex_unlock(&dev->end_mutex);
}

static void vb_end_work(struct work_struct *work)
{
	struct vb_device *dev = container_of(work, struct vb_device, end_work);

	if (!vb_device_dead(dev))
		pr_err("the device is lost: binder calls fail from now on\n");
	vb_device_end(dev);
}

static void vb_queue_ready(struct virtqueue *vq)
{
	vb_drain(vq->vdev->priv, false);
}

static void vb_config_changed(struct virtio_device *vdev)
{
	if (vdev->config->get_status(vdev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		vb_device_lost(vdev->priv);
}

/* Creates the character devices that the parameter names. */
static int vb_nodes_register(struct vb_device *dev)
{
	const char *at = misc ? devices : "";
	int error;

	while (*at) {
		size_t length = strcspn(at, ",");
		struct vb_node *node = &dev->nodes[dev->node_count];

		if (length) {
			if (dev->node_count == VB_NODES_MAX || length >= VB_NAME_MAX) {
				pr_err("devices=: too many names, or too long\n");
				return -EINVAL;
			}
			memcpy(node->name, at, length);
			node->dev = dev;
			node->misc.minor = MISC_DYNAMIC_MINOR;
			node->misc.name = node->name;
			node->misc.fops = &vb_fops;
			error = misc_register(&node->misc);
			if (error) {
				pr_err("/dev/%s: %d (is binder_linux loaded?)\n",
				       node->name, error);
				return error;
			}
			dev->node_count++;
		}
		at += length;
		if (*at)
			at++;
	}
	return 0;
}

static void vb_nodes_deregister(struct vb_device *dev)
{
	while (dev->node_count)
		misc_deregister(&dev->nodes[--dev->node_count].misc);
}

static ssize_t dropped_events_show(struct device *device,
				   struct device_attribute *attr, char *buf)
{
	struct vb_device *dev = dev_to_virtio(device)->priv;

	return sysfs_emit(buf, "%d\n", atomic_read(&dev->dropped_events));
}
static DEVICE_ATTR_RO(dropped_events);

static ssize_t protocol_errors_show(struct device *device,
				    struct device_attribute *attr, char *buf)
{
	struct vb_device *dev = dev_to_virtio(device)->priv;

	return sysfs_emit(buf, "%d\n", atomic_read(&dev->protocol_errors));
}
static DEVICE_ATTR_RO(protocol_errors);

static struct attribute *vb_attrs[] = {
	&dev_attr_dropped_events.attr,
	&dev_attr_protocol_errors.attr,
	NULL
};
ATTRIBUTE_GROUPS(vb);

static struct vb_device *vb_device_new(struct virtio_device *vdev)
{
	struct vb_device *dev = kzalloc(sizeof(*dev), GFP_KERNEL);

	if (!dev)
		return NULL;
	BUILD_BUG_ON(sizeof(struct vb_event) != VB_EVENT_SIZE);
	dev->event_buffers = alloc_pages_exact(VB_QUEUE_SIZE * VB_EVENT_SIZE,
					       GFP_KERNEL | __GFP_ZERO);
	if (!dev->event_buffers) {
		kfree(dev);
		return NULL;
	}
	kref_init(&dev->ref);
	dev->vdev = vdev;
	spin_lock_init(&dev->lock);
	init_waitqueue_head(&dev->room);
	mutex_init(&dev->end_mutex);
	mutex_init(&dev->logs_mutex);
	init_completion(&dev->ended);
	INIT_WORK(&dev->end_work, vb_end_work);
	xa_init(&dev->procs);
	xa_init_flags(&dev->tokens, XA_FLAGS_ALLOC1);
	return dev;
}

/* What the shim cannot work with is refused here, before the device is live; what it shall not use is let go. */
static int vb_validate(struct virtio_device *vdev)
{
	if (!virtio_has_feature(vdev, VIRTIO_F_VERSION_1)) {
		dev_err(&vdev->dev, "a legacy device is not supported\n");
		return -ENODEV;
	}
	/* Pages are named by PFN inside of messages: no IOMMU can be between. */
	if (virtio_has_feature(vdev, VIRTIO_F_ACCESS_PLATFORM)) {
		dev_err(&vdev->dev, "ACCESS_PLATFORM is not supported\n");
		return -ENODEV;
	}
	if (!attempt_acquire)
		__virtio_clear_bit(vdev, VB_F_ATTEMPT_ACQUIRE);
	return 0;
}

static int vb_probe(struct virtio_device *vdev)
{
	struct virtqueue *queues[2];
	struct vb_device *dev;
	u32 version;
	int error;

	virtio_cread_le(vdev, struct vb_config, version, &version);
	if (version != VB_VERSION) {
		dev_err(&vdev->dev, "the device speaks version %u, we %u\n",
			version, VB_VERSION);
		return -ENODEV;
	}
	if (atomic_cmpxchg(&vb_bound, 0, 1)) {
		dev_err(&vdev->dev, "there is a virtio-binder device already\n");
		return -EBUSY;
	}
	error = -ENOMEM;
	dev = vb_device_new(vdev);
	if (!dev)
		goto unbind;
	vdev->priv = dev;
	virtio_cread_le(vdev, struct vb_config, epoch, &dev->epoch);
	virtio_cread_le(vdev, struct vb_config, lsm, &dev->lsm);
	if (virtio_has_feature(vdev, VB_F_BINDERFS)) {
		dev->features |= BIT(VB_F_BINDERFS);
		virtio_cread_le(vdev, struct vb_config, driver, &dev->driver);
	}

	dev->direct = virtio_has_feature(vdev, VB_F_DIRECT);

	error = vb_find_queues(vdev, queues, vb_queue_ready, vb_queue_ready);
	if (error)
		goto put;
	dev->requests = queues[VB_REQUEST_QUEUE];
	dev->events = queues[VB_EVENT_QUEUE];
	/* A message takes two entries. */
	dev->capacity = virtqueue_get_vring_size(dev->requests) / 2;

	error = vb_shrinking_start(dev);
	if (error)
		goto del_vqs;
	virtio_device_ready(vdev);
	error = vb_post_event_buffers(dev);
	if (error)
		goto end;
	error = vb_nodes_register(dev);
	if (error)
		goto end;
	if (dev->features & BIT(VB_F_BINDERFS))
		vb_debugfs_fill(dev);
	vb_set_current(dev);
	pr_info("ready: %s, epoch %u%s\n", devices, dev->epoch,
		virtio_has_feature(vdev, VB_F_INLINE) ? ", inline" : "");
	return 0;

end:
	vb_device_end(dev);
	vb_nodes_deregister(dev);
	vb_shrinking_stop(dev);
	cancel_work_sync(&dev->end_work);
del_vqs:
	vdev->config->del_vqs(vdev);
put:
	vb_device_put(dev);
unbind:
	atomic_set(&vb_bound, 0);
	return error;
}

static void vb_remove(struct virtio_device *vdev)
{
	struct vb_device *dev = vdev->priv;

	vb_set_current(NULL);
	vb_debugfs_empty();
	/* First the end, so that an open that waits for the device lets go. */
	vb_device_end(dev);
	vb_nodes_deregister(dev);
	vb_shrinking_stop(dev);
	cancel_work_sync(&dev->end_work);
	vdev->config->del_vqs(vdev);
	vb_device_put(dev);
	atomic_set(&vb_bound, 0);
}

#ifdef CONFIG_PM_SLEEP
/* The core's state would not survive the reset that a restore begins with. */
static int vb_freeze(struct virtio_device *vdev)
{
	return -EBUSY;
}

static int vb_restore(struct virtio_device *vdev)
{
	return -EBUSY;
}
#endif

static const unsigned int vb_features[] = {
	VB_F_INLINE, VB_F_BINDERFS, VB_F_ATTEMPT_ACQUIRE, VB_F_DIRECT,
};

static const struct virtio_device_id vb_ids[] = {
	{ VB_DEVICE_ID, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, vb_ids);

static struct virtio_driver vb_driver = {
	.feature_table = vb_features,
	.feature_table_size = ARRAY_SIZE(vb_features),
	.driver.name = KBUILD_MODNAME,
	.driver.owner = THIS_MODULE,
	/* Unbinding by hand would take the device from under its users. */
	.driver.suppress_bind_attrs = true,
	.driver.dev_groups = vb_groups,
	.id_table = vb_ids,
	.validate = vb_validate,
	.probe = vb_probe,
	.remove = vb_remove,
	.config_changed = vb_config_changed,
#ifdef CONFIG_PM_SLEEP
	.freeze = vb_freeze,
	.restore = vb_restore,
#endif
};

static int __init vb_init(void)
{
	int error;

	/* The trim worker is part of reclaim. */
	vb_wq = alloc_workqueue("virtio_binder", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!vb_wq)
		return -ENOMEM;
	vb_debugfs_start();
	error = vb_policy_start();
	if (error)
		goto stop;
	error = vb_fs_start();
	if (error)
		goto ignore_policy;
	/* Last: from its probe on, files of the module may be open. */
	error = register_virtio_driver(&vb_driver);
	if (!error)
		return 0;
	vb_fs_stop();
ignore_policy:
	vb_policy_stop();
stop:
	vb_debugfs_stop();
	destroy_workqueue(vb_wq);
	return error;
}

static void __exit vb_exit(void)
{
	vb_fs_stop();
	unregister_virtio_driver(&vb_driver);
	vb_policy_stop();
	vb_debugfs_stop();
	/* Proc records whose files are closed are on their way out here. */
	destroy_workqueue(vb_wq);
	vb_message_cache_empty();
	rcu_barrier();
}

module_init(vb_init);
module_exit(vb_exit);

MODULE_DESCRIPTION("Android binder, served by the host over virtio");
MODULE_LICENSE("GPL");

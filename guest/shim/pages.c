// SPDX-License-Identifier: GPL-2.0-only
/*
 * The pages of a mapping: reserved by mmap, supplied when the core asks, shown
 * to the owner on first touch, taken back by TRIM under pressure or by age.
 *
 * A slot is a page of the mapping, by index. pages_mutex of the proc guards its
 * slots; it nests inside mmap_lock (faults) and outside of i_mmap_rwsem and the
 * page table locks (zapping). Pages are allocated before it is taken.
 */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/slab.h>

#include "shim.h"

/* Slots that one TRIM gives back at most: their list must fit in the answer. */
#define VB_TRIM_MAX	512

/* Each proc has its own page offsets, so that zapping finds only its VMAs. */
static pgoff_t vb_first_offset(const struct vb_proc *proc)
{
	return (pgoff_t)proc->id << VB_SLOT_SHIFT;
}

/*
 * Shows a filled slot. The PTE is set here, under pages_mutex, and not by the
 * caller from vmf->page: TRIM could take the page away in between, and the old
 * page would stay visible for ever. An empty slot is SIGBUS (B013).
 */
static vm_fault_t vb_fault(struct vm_fault *vmf)
{
	struct vb_proc *proc = vmf->vma->vm_private_data;
	pgoff_t index = vmf->pgoff - vb_first_offset(proc);
	vm_fault_t result = VM_FAULT_SIGBUS;
	int error;

	mutex_lock(&proc->pages_mutex);
	if (proc->slots && index < proc->slot_count && proc->slots[index]) {
		error = vm_insert_page(vmf->vma, vmf->address & PAGE_MASK,
				       proc->slots[index]);
		if (!error || error == -EBUSY)	/* another thread was first */
			result = VM_FAULT_NOPAGE;
		else if (error == -ENOMEM)
			result = VM_FAULT_OOM;
	}
	mutex_unlock(&proc->pages_mutex);
	return result;
}

/* Any part unmapped makes the proc unmapped for good (B014). */
static void vb_vma_close(struct vm_area_struct *vma)
{
	struct vb_proc *proc = vma->vm_private_data;

	if (xchg(&proc->unmapped, true))
		return;
	vb_begin(proc->unmap_note, VB_UNMAP, proc, 0, 0, 0, 0);
	vb_post(proc->dev, proc->unmap_note);
}

static const struct vm_operations_struct vb_vm_ops = {
	.close = vb_vma_close,
	.fault = vb_fault,
};

int vb_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct vb_proc *proc = file->private_data;
	struct vb_message *map = NULL, *unmap = NULL;
	struct page **slots;
	struct vb_mmap *body;
	u64 length;
	int error;

	if (proc->tsk != current->group_leader)
		return -EINVAL;
	if (vma->vm_flags & VM_WRITE)
		return -EPERM;
	if (vma->vm_mm != proc->mm)
		return -EINVAL;
	if (vb_device_dead(proc->dev))
		return -EIO;

	length = min_t(u64, vma->vm_end - vma->vm_start, VB_MAPPING_MAX);
	slots = kvcalloc(length >> PAGE_SHIFT, sizeof(*slots), GFP_KERNEL_ACCOUNT);
	map = vb_message_get(GFP_KERNEL);
	unmap = vb_message_get(GFP_KERNEL);
	if (!slots || !map || !unmap) {
		error = -ENOMEM;
		goto free;
	}

	mutex_lock(&proc->pages_mutex);
	if (proc->slots) {
		mutex_unlock(&proc->pages_mutex);
		error = -EBUSY;
		goto free;
	}
	proc->slots = slots;
	proc->slot_count = length >> PAGE_SHIFT;
	proc->mmap_note = map;
	proc->unmap_note = unmap;
	mutex_unlock(&proc->pages_mutex);

	vb_vma_flags(vma, VM_DONTCOPY | VM_MIXEDMAP, VM_MAYWRITE);
	vma->vm_pgoff = vb_first_offset(proc);
	vma->vm_ops = &vb_vm_ops;
	vma->vm_private_data = proc;

	body = vb_begin(map, VB_MMAP, proc, 0, 0, 0, sizeof(*body));
	body->address = cpu_to_le64(vma->vm_start);
	body->length = cpu_to_le64(length);
	/* Not waited for: mmap_lock is held. Whoever sends later comes later. */
	return vb_post(proc->dev, map);

free:
	kvfree(slots);
	vb_message_put(map);
	vb_message_put(unmap);
	return error;
}

/*
 * Allocates a page for every slot that is asked for, before pages_mutex is taken;
 * vb_pages_drop() frees what is left over.
 */
int vb_pages_prepare(struct list_head *fresh, u32 count)
{
	struct page *page;

	while (count--) {
		page = alloc_page(GFP_KERNEL | __GFP_ZERO);
		if (!page)
			return -ENOMEM;
		list_add(&page->lru, fresh);
	}
	return 0;
}

/*
 * Fills slots (le32) with fresh pages and writes their PFNs. pages_mutex is held
 * by the caller until the message is posted. A filled slot keeps its page.
 */
int vb_pages_supply(struct vb_proc *proc, struct list_head *fresh,
		    const u8 *slots, u32 count, __le64 *pfns)
{
	struct page *page;
	u32 i, slot;

	lockdep_assert_held(&proc->pages_mutex);
	if (!proc->slots || READ_ONCE(proc->unmapped) || proc->gone)
		return -ESRCH;
	for (i = 0; i < count; i++) {
		slot = get_unaligned_le32(slots + i * sizeof(__le32));
		if (slot >= proc->slot_count) {
			vb_device_bug(proc->dev, "slot outside of the mapping");
			return -EINVAL;
		}
		page = proc->slots[slot];
		if (!page) {
			page = list_first_entry(fresh, struct page, lru);
			list_del(&page->lru);
			proc->slots[slot] = page;
		}
		pfns[i] = cpu_to_le64(page_to_pfn(page));
	}
	return 0;
}

void vb_pages_drop(struct list_head *fresh)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, fresh, lru) {
		list_del(&page->lru);
		put_page(page);
	}
}

/* After RELEASE was answered, or the device was reset. */
void vb_pages_free(struct vb_proc *proc)
{
	unsigned int i;

	mutex_lock(&proc->pages_mutex);
	proc->gone = true;
	for (i = 0; i < proc->slot_count; i++)
		if (proc->slots[i])
			put_page(proc->slots[i]);
	kvfree(proc->slots);
	proc->slots = NULL;
	proc->slot_count = 0;
	mutex_unlock(&proc->pages_mutex);
}

/*
 * Empties the slots that TRIM gave back: first the slot, then the PTEs, then
 * the page, so that no fault can show it again.
 */
static u32 vb_take_back(struct vb_proc *proc, const struct vb_reply *reply)
{
	u32 count = le32_to_cpu(reply->answer.list_count);
	const u8 *list = vb_reply_at(reply, le32_to_cpu(reply->answer.list_offset),
				     count, sizeof(__le32));
	u32 i, freed = 0;

	if (!list) {
		vb_device_bug(proc->dev, "TRIM list outside of the answer");
		return 0;
	}
	for (i = 0; i < count; i++) {
		u32 slot = get_unaligned_le32(list + i * sizeof(__le32));
		struct page *page;

		if (slot >= proc->slot_count || !proc->slots[slot]) {
			vb_device_bug(proc->dev, "TRIM gave back an empty slot");
			continue;
		}
		page = proc->slots[slot];
		proc->slots[slot] = NULL;
		if (proc->mapping)
			unmap_mapping_pages(proc->mapping,
					    vb_first_offset(proc) + slot, 1, false);
		put_page(page);
		freed++;
	}
	return freed;
}

/* Asks the core for up to `wanted` of the proc's pages; how many came back. */
static long vb_trim_proc(struct vb_proc *proc, long wanted)
{
	struct vb_device *dev = proc->dev;
	struct vb_message *msg = dev->trim_note;
	struct vb_reply reply;
	struct vb_trim *body;
	u32 max, got;
	long total = 0;

	mutex_lock(&proc->pages_mutex);
	while (proc->slots && total < wanted) {
		max = min_t(long, wanted - total, VB_TRIM_MAX);
		body = vb_begin(msg, VB_TRIM, proc, 0, 0, 0, sizeof(*body));
		body->max = cpu_to_le32(max);
		/* With the mutex: nobody may look at a slot until it is empty. */
		if (vb_exchange(dev, msg, &reply))
			break;
		if (le16_to_cpu(reply.answer.status) != VB_DONE || reply.answer.error)
			break;
		got = vb_take_back(proc, &reply);
		total += got;
		if (got < max)
			break;
	}
	mutex_unlock(&proc->pages_mutex);
	return total;
}

/* The worker behind the shrinker and the clock. */
static void vb_trim(struct work_struct *work)
{
	struct vb_device *dev = container_of(work, struct vb_device, trim_work);
	long wanted = atomic_long_xchg(&dev->trim_wanted, 0);
	struct vb_proc *proc;
	unsigned long id = 0;

	while (wanted > 0 && !vb_device_dead(dev) &&
	       (proc = vb_proc_next(dev, &id))) {
		wanted -= vb_trim_proc(proc, wanted);
		vb_proc_put(proc);
		id++;
	}
}

/*
 * Age. The core has no clock, and a page has no date: what counts is how many
 * pages were idle at every moment of a whole period. So many were not needed in
 * it, and the core gives up those first that it would use last.
 */
static unsigned int age = 60;
module_param(age, uint, 0644);
MODULE_PARM_DESC(age, "seconds after which pages of mappings that nobody needed are given back; 0: never");

/* A deferrable timer: an idle guest is not woken for this. */
static void vb_age_start(struct vb_device *dev)
{
	unsigned int seconds = READ_ONCE(age);

	if (seconds)
		queue_delayed_work(vb_wq, &dev->age_work,
				   min(seconds, 1U << 20) * HZ);
}

/* Takes over the number of idle pages from an answer or event. Any context. */
void vb_note_idle(struct vb_device *dev, u32 pages)
{
	/* A race costs one period at most. */
	WRITE_ONCE(dev->idle_pages, pages);
	if (pages < READ_ONCE(dev->idle_least))
		WRITE_ONCE(dev->idle_least, pages);
	if (!pages || delayed_work_pending(&dev->age_work))
		return;
	/* Either the device's end waits for this, and then cancels it, or it is dead. */
	rcu_read_lock();
	if (!vb_device_dead(dev))
		vb_age_start(dev);
	rcu_read_unlock();
}

static void vb_age(struct work_struct *work)
{
	struct vb_device *dev = container_of(to_delayed_work(work),
					     struct vb_device, age_work);
	unsigned int unused = READ_ONCE(dev->idle_least);

	WRITE_ONCE(dev->idle_least, READ_ONCE(dev->idle_pages));
	if (unused) {
		atomic_long_add(unused, &dev->trim_wanted);
		queue_work(vb_wq, &dev->trim_work);
	}
	if (READ_ONCE(dev->idle_pages) && !vb_device_dead(dev))
		vb_age_start(dev);
}

/* The one device whose pages the shrinker speaks of. */
static struct vb_device *vb_shrinking;

static unsigned long vb_shrink_count(struct shrinker *shrinker,
				     struct shrink_control *sc)
{
	return READ_ONCE(vb_shrinking->idle_pages);
}

/*
 * Reclaim can run inside a message that is being built, and the core may be far
 * away: the worker does it. trim_wanted is a wish, so a lost race costs nothing.
 */
static unsigned long vb_shrink_scan(struct shrinker *shrinker,
				    struct shrink_control *sc)
{
	atomic_long_add(sc->nr_to_scan, &vb_shrinking->trim_wanted);
	queue_work(vb_wq, &vb_shrinking->trim_work);
	return SHRINK_STOP;
}

int vb_shrinking_start(struct vb_device *dev)
{
	dev->trim_note = vb_message_get(GFP_KERNEL);
	if (!dev->trim_note)
		return -ENOMEM;
	INIT_WORK(&dev->trim_work, vb_trim);
	INIT_DEFERRABLE_WORK(&dev->age_work, vb_age);
	vb_shrinking = dev;
	dev->shrinker = vb_shrinker_start(vb_shrink_count, vb_shrink_scan);
	if (!dev->shrinker) {
		vb_message_put(dev->trim_note);
		return -ENOMEM;
	}
	return 0;
}

void vb_shrinking_stop(struct vb_device *dev)
{
	vb_shrinker_stop(dev->shrinker);
	cancel_delayed_work_sync(&dev->age_work);
	cancel_work_sync(&dev->trim_work);
	vb_message_put(dev->trim_note);
}

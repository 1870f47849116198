// SPDX-License-Identifier: GPL-2.0-only
/*
 * From the sender's memory into messages: the write stream as chunks of whole
 * commands, and the ranges these commands name.
 *
 * The shim knows of a command only its size, from _IOC_SIZE, and of the four
 * transaction commands where they name data and offsets. It judges nothing: an
 * unreadable byte is reported, and the core decides which error it is and when.
 * User memory is touched here, so no lock is held.
 */
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/uaccess.h>

#include "shim.h"

/*
 * No command is longer. A word that claims more is unknown: the core stops at
 * it, whatever follows.
 */
#define VB_COMMAND_MAX	256

/* Ranges of one chunk: no more than plans fit in the in page, our scratch. */
#define VB_RANGES_MAX	(VB_PAGE_SIZE / sizeof(struct vb_range))

/* One page of page pointers. */
struct vb_pin_block {
	struct list_head link;
	unsigned int count;
	struct page *pages[];
};

#define VB_PIN_BLOCK_MAX \
	((PAGE_SIZE - sizeof(struct vb_pin_block)) / sizeof(struct page *))

/* Where pointers to pages are noted. */
struct vb_places {
	struct page **pages;
	unsigned int *count;		/* of those that are taken */
	unsigned int size;
};

void vb_pins_init(struct vb_pins *pins)
{
	pins->few_count = 0;
	INIT_LIST_HEAD(&pins->blocks);
}

void vb_pins_put(struct vb_pins *pins)
{
	struct vb_pin_block *block, *next;
	unsigned int i;

	while (pins->few_count)
		put_page(pins->few[--pins->few_count]);
	list_for_each_entry_safe(block, next, &pins->blocks, link) {
		for (i = 0; i < block->count; i++)
			put_page(block->pages[i]);
		list_del(&block->link);
		free_page((unsigned long)block);
	}
}

/* Places for some of `want` pages, at least one; false: no memory. */
static bool vb_pins_places(struct vb_pins *pins, u32 want, struct vb_places *places)
{
	struct vb_pin_block *block = NULL;

	if (want <= VB_FEW_PAGES - pins->few_count) {
		*places = (struct vb_places){ pins->few, &pins->few_count, VB_FEW_PAGES };
		return true;
	}
	if (!list_empty(&pins->blocks))
		block = list_last_entry(&pins->blocks, struct vb_pin_block, link);
	if (!block || block->count == VB_PIN_BLOCK_MAX) {
		block = (struct vb_pin_block *)__get_free_page(GFP_KERNEL_ACCOUNT);
		if (!block)
			return false;
		block->count = 0;
		list_add_tail(&block->link, &pins->blocks);
	}
	*places = (struct vb_places){ block->pages, &block->count, VB_PIN_BLOCK_MAX };
	return true;
}

/*
 * Copies what can be read of [address, +length), from its start; how much. Raw,
 * because the hardened copy's look at what `to` is costs more than a small copy;
 * it is always a page of ours that has the room.
 */
size_t vb_copy_in(void *to, u64 address, size_t length)
{
	if (address >= TASK_SIZE_MAX)
		return 0;
	length = min_t(u64, length, TASK_SIZE_MAX - address);
	barrier_nospec();
	return length - raw_copy_from_user(to, u64_to_user_ptr(address), length);
}

/*
 * Up to `want` pages from page-aligned `address` on by GUP, into the places.
 * Returns how many; stops before a page that is not RAM for the host.
 */
static u32 vb_pin_user(struct vb_places *places, u64 address, u32 want)
{
	struct page **pages = &places->pages[*places->count];
	int got, i, taken;

	want = min_t(u64, want, places->size - *places->count);
	want = min_t(u64, want, (TASK_SIZE_MAX - address) >> PAGE_SHIFT);
	/*
	 * Without FOLL_WRITE and FOLL_PIN: reading needs neither, and a pin
	 * would copy pages that are shared since a fork.
	 */
	got = want ? get_user_pages_fast(address, want, 0, pages) : 0;
	for (taken = 0; taken < got; taken++)
		if (is_zone_device_page(pages[taken]))
			break;
	for (i = taken; i < got; i++)
		put_page(pages[i]);
	*places->count += taken;
	return taken;
}

/* A copy of part of one user page, at the same offset in a page of our own. */
static bool vb_bounce(struct vb_places *places, u64 address, size_t length,
		      size_t *copied)
{
	struct page *page = alloc_page(GFP_KERNEL_ACCOUNT);

	if (!page)
		return false;
	*copied = vb_copy_in(page_address(page) + offset_in_page(address),
			     address, length);
	places->pages[(*places->count)++] = page;
	return true;
}

/*
 * The pages of [address, +length) as PFNs at `pfns`, at most `most`. What GUP
 * cannot give (VM_PFNMAP, secret memory, ZONE_DEVICE) is copied. Returns the
 * bytes carried; sets *fault when the next one cannot be read.
 */
static u64 vb_gather_pages(struct vb_pins *pins, u64 address, u64 length,
			   __le64 *pfns, u32 most, bool *fault)
{
	u64 carried = 0;
	u32 n = 0;

	while (n < most && carried < length && !*fault) {
		u64 at = address + carried;
		u64 left = min_t(u64, length - carried,
				 VB_WINDOW_PAGES * PAGE_SIZE);
		u64 span = offset_in_page(at) + left;
		u32 pages = min_t(u64, most - n, DIV_ROUND_UP_ULL(span, PAGE_SIZE));
		struct vb_places places;
		u32 first, taken, i;

		if (at >= TASK_SIZE_MAX || at < address) {
			*fault = true;
			break;
		}
		if (!vb_pins_places(pins, pages, &places))
			break;
		first = *places.count;
		taken = vb_pin_user(&places, at & PAGE_MASK, pages);
		if (taken) {
			carried += min_t(u64, left, taken * PAGE_SIZE -
					 offset_in_page(at));
		} else {
			size_t want = min_t(u64, left,
					    PAGE_SIZE - offset_in_page(at));
			size_t copied;

			if (!vb_bounce(&places, at, want, &copied))
				break;
			*fault = copied < want;
			carried += copied;
			taken = 1;
		}
		for (i = 0; i < taken; i++)
			pfns[n++] = cpu_to_le64(page_to_pfn(places.pages[first + i]));
	}
	return carried;
}

/*
 * The same for the whole of [address, +length), which touches `pages` pages, as a
 * copy in the message's own pages, which is cheaper for a few pages than to pin
 * and name them (README.md has the figures). False: they are not enough.
 */
static bool vb_copy_pages(struct vb_message *msg, u64 address, u64 length,
			  __le64 *pfns, u32 pages, u64 *readable)
{
	void *at;
	u32 i;

	if (pages > VB_OWN_PAGES - msg->own_used)
		return false;
	if (!msg->own)
		msg->own = (void *)__get_free_pages(GFP_KERNEL | __GFP_NOWARN, VB_OWN_ORDER);
	if (!msg->own)
		return false;
	at = msg->own + msg->own_used * PAGE_SIZE;
	for (i = 0; i < pages; i++)
		pfns[i] = cpu_to_le64(page_to_pfn(virt_to_page(at)) + i);
	*readable = vb_copy_in(at + offset_in_page(address), address, length);
	msg->own_used += pages;
	return true;
}

/* Pages that [address, +length) touches, no more than a window. */
static u32 vb_window(u64 address, u64 length)
{
	u64 bytes = min_t(u64, length, VB_WINDOW_PAGES * PAGE_SIZE);

	return min_t(u64, VB_WINDOW_PAGES,
		     DIV_ROUND_UP_ULL(offset_in_page(address) + bytes, PAGE_SIZE));
}

/*
 * Puts as much of [address, +length) as `room` bytes of the message allow into
 * it, inline if all fits, else as page frame numbers, and says so in *range.
 * -ENOMEM: nothing could be carried for lack of memory.
 */
int vb_gather_range(struct vb_message *msg, struct vb_pins *pins, u64 address,
		    u64 length, u32 room, struct vb_range *range)
{
	u16 form = VB_RANGE_NONE;
	bool fault = false;
	u64 readable = 0;
	void *at = NULL;
	int error = 0;

	room = round_down(min(room, vb_room(msg)), 8);
	if (length <= room) {
		at = vb_take(msg, length);
		readable = vb_copy_in(at, address, length);
		fault = readable < length;
		form = VB_RANGE_INLINE;
	} else if (room) {
		u32 window = vb_window(address, length);
		u32 most = min_t(u32, room / sizeof(__le64), window);

		at = vb_take(msg, most * sizeof(__le64));
		if (most == window && vb_copy_pages(msg, address, length, at, most, &readable))
			fault = readable < length;
		else
			readable = vb_gather_pages(pins, address, length, at, most, &fault);
		form = VB_RANGE_PFNS;
		if (!readable && !fault)
			error = -ENOMEM;
	}
	if (!readable)
		form = VB_RANGE_NONE;

	memset(range, 0, sizeof(*range));
	range->address = cpu_to_le64(address);
	range->length = cpu_to_le64(length);
	range->readable = cpu_to_le64(readable);
	range->form = cpu_to_le16(form);
	range->flags = cpu_to_le16(fault ? VB_RANGE_FAULT : 0);
	if (form != VB_RANGE_NONE)
		range->offset = cpu_to_le32(vb_offset(msg, at));
	return error;
}

/* A range that is planned, with the room it shall have in the message. */
struct vb_plan {
	u64 address;
	u64 length;
	u32 room;
};

/* What the command at `bytes` names: 0 to 2 ranges. */
static unsigned int vb_named_ranges(u32 word, const u8 *bytes,
				    struct vb_plan named[2])
{
	struct binder_transaction_data tr;
	unsigned int n = 0;

	switch (word) {
	case BC_TRANSACTION:
	case BC_REPLY:
	case BC_TRANSACTION_SG:
	case BC_REPLY_SG:
		break;
	default:
		return 0;
	}
	/* The _SG form begins with the plain one. */
	memcpy(&tr, bytes, sizeof(tr));
	/* Offsets first: they are short, and without them data is no use. */
	if (tr.offsets_size)
		named[n++] = (struct vb_plan){ tr.data.ptr.offsets, tr.offsets_size };
	if (tr.data_size)
		named[n++] = (struct vb_plan){ tr.data.ptr.buffer, tr.data_size };
	return n;
}

/*
 * Gives each range its room out of `left` bytes: all of it inline, or its page
 * numbers. False: the command should wait for the next chunk; not if `clip`,
 * when it is the first, and gets what there is.
 */
static bool vb_plan_room(struct vb_plan *named, unsigned int n, u32 left, bool clip)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		struct vb_plan *plan = &named[i];
		u32 pfns = vb_window(plan->address, plan->length) * sizeof(__le64);

		if (plan->length <= left)
			plan->room = ALIGN(plan->length, 8);
		else if (pfns <= left)
			plan->room = pfns;
		else if (clip)
			plan->room = left;
		else
			return false;
		left -= plan->room;
	}
	return true;
}

/* Whether a message whose stream ends at `end` has room for what is behind it. */
static bool vb_fits(u32 end, u32 ranges, u32 planned)
{
	return ALIGN(end, 8) + ranges * sizeof(struct vb_range) + planned <= VB_PAGE_SIZE;
}

/*
 * Fills the message with the write stream from `position` on, as far as whole
 * commands and their ranges fit, and describes it in *chunk, which is part of
 * the message's body. The in page is scratch.
 */
void vb_gather_chunk(struct vb_message *msg, struct vb_pins *pins,
		     const struct binder_write_read *bwr, u64 position,
		     struct vb_chunk *chunk)
{
	struct vb_plan *plans = msg->in;
	u32 start = msg->length;
	u32 used = 0, ranges = 0, planned = 0, got, want, i;
	u16 end = VB_CHUNK_CUT;
	struct vb_range *table;
	u8 *stream = msg->out + start;
	bool cut = false;
	u64 left;

	BUILD_BUG_ON(sizeof(struct vb_plan) > sizeof(struct vb_range));

	chunk->position = cpu_to_le64(position);
	/* The rest of it is zero, which says: nothing, and the LAST of it. */
	if (position >= bwr->write_size)
		return;
	left = bwr->write_size - position;
	want = min_t(u64, left, vb_room(msg));
	got = vb_copy_in(stream, bwr->write_buffer + position, want);

	while (got - used >= sizeof(u32) && !cut) {
		u32 word = get_unaligned_le32(stream + used);
		u32 size = min_t(u32, sizeof(u32) + _IOC_SIZE(word), VB_COMMAND_MAX);
		u32 room = VB_PAGE_SIZE - planned;
		struct vb_plan named[2];
		unsigned int n;
		u32 fixed;

		if (size > got - used)
			break;
		n = vb_named_ranges(word, stream + used + sizeof(u32), named);
		fixed = ALIGN(start + used + size, 8) +
			(ranges + n) * sizeof(struct vb_range);
		cut = ranges + n > VB_RANGES_MAX || fixed > room ||
		      !vb_plan_room(named, n, room - fixed, !used);
		if (cut)
			break;
		for (i = 0; i < n; i++) {
			plans[ranges++] = named[i];
			planned += named[i].room;
		}
		used += size;
		cut = sizeof(u32) + _IOC_SIZE(word) > VB_COMMAND_MAX;
	}
	/*
	 * A last command that write_size or unreadable memory cuts short goes along,
	 * for what there is of it decides which error it is; in the next chunk, if
	 * the ranges need the room.
	 */
	if (!cut && (got == left || got < want) && vb_fits(start + got, ranges, planned)) {
		used = got;
		end = got == left ? VB_CHUNK_LAST : VB_CHUNK_UNREADABLE;
	}
	if (used == left)
		end = VB_CHUNK_LAST;

	chunk->offset = cpu_to_le32(start);
	chunk->length = cpu_to_le32(used);
	chunk->end = cpu_to_le32(end);
	vb_take(msg, used);
	chunk->range_offset = cpu_to_le32(msg->length);
	chunk->range_count = cpu_to_le32(ranges);
	table = vb_take(msg, ranges * sizeof(*table));
	/* A range without room for want of memory is asked for again as a need. */
	for (i = 0; i < ranges; i++)
		vb_gather_range(msg, pins, plans[i].address, plans[i].length,
				plans[i].room, &table[i]);
}

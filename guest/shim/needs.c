// SPDX-License-Identifier: GPL-2.0-only
/*
 * NEEDS: what the core misses, got in the caller's own context and sent back in
 * one CONTINUE, one result a need.
 *
 * Data, files and hooks are got with no lock held. Pages come last, since the
 * target's pages_mutex is held from looking at its slots until the message is
 * posted; so one message serves pages of one target.
 */
#include "shim.h"

/* Needs of one answer; with their results there is still room for a window. */
#define VB_NEEDS_MAX	32

/* The NEEDS under way: what was asked, and where the results go. */
struct vb_needs {
	struct vb_call *call;
	const u8 *list;			/* struct vb_need[count] in the answer */
	struct vb_result *results;	/* in the message */
	u32 count;
	struct vb_proc *target;		/* of all PAGES; with a reference */
	struct list_head fresh;		/* pages for them */
};

static struct vb_need vb_need_at(const struct vb_needs *needs, u32 i)
{
	struct vb_need need;

	memcpy(&need, needs->list + i * sizeof(need), sizeof(need));
	return need;
}

/* The list of a PAGES or FILES need, or NULL. */
static const u8 *vb_need_list(const struct vb_needs *needs,
			      const struct vb_need *need)
{
	u32 count = le32_to_cpu(need->count);

	if (!count)
		return NULL;
	return vb_reply_at(&needs->call->reply, le32_to_cpu(need->offset), count,
			   sizeof(__le32));
}

/*
 * Takes room for the results that have a size of their own, so that data, which
 * may come in parts, gets what is left.
 */
static int vb_reserve_room(struct vb_needs *needs, const struct vb_need *need,
			   struct vb_result *result)
{
	struct vb_message *msg = needs->call->msg;
	u32 count = le32_to_cpu(need->count);
	u32 size;

	switch (le16_to_cpu(need->kind)) {
	case VB_NEED_DATA:
	case VB_NEED_LSM:
		return 0;
	case VB_NEED_PAGES:
		if (count > VB_WINDOW_PAGES)
			return -EINVAL;
		size = sizeof(__le64);
		break;
	case VB_NEED_FILES:
		size = sizeof(__le32);
		break;
	default:
		return -EINVAL;
	}
	if (!vb_need_list(needs, need) || ALIGN(count * size, 8) > vb_room(msg))
		return -EINVAL;
	result->offset = cpu_to_le32(vb_offset(msg, vb_take(msg, count * size)));
	return 0;
}

/* Notes a PAGES need for the end, and allocates for it. */
static int vb_note_pages(struct vb_needs *needs, const struct vb_need *need)
{
	u32 id = le32_to_cpu(need->proc);

	if (!needs->target)
		needs->target = vb_proc_find(needs->call->dev, id);
	if (!needs->target)
		return -ESRCH;
	/* Two pages_mutexes at a time could be taken in two orders. */
	if (needs->target->id != id)
		return -EINVAL;
	return vb_pages_prepare(&needs->fresh, le32_to_cpu(need->count));
}

static int vb_get_files(struct vb_needs *needs, const struct vb_need *need,
			struct vb_result *result)
{
	struct vb_call *call = needs->call;
	struct vb_proc *target = vb_proc_find(call->dev, le32_to_cpu(need->proc));
	u32 done;
	int error;

	if (!target)
		return -ESRCH;
	error = vb_send_files(call, target, vb_need_list(needs, need),
			      le32_to_cpu(need->count),
			      call->msg->out + le32_to_cpu(result->offset), &done);
	result->count = cpu_to_le32(done);
	vb_proc_put(target);
	return error;
}

static int vb_get_opinion(struct vb_needs *needs, const struct vb_need *need)
{
	struct vb_call *call = needs->call;
	struct vb_proc *target = vb_proc_find(call->dev, le32_to_cpu(need->proc));
	int error;

	if (!target)
		return -ESRCH;
	error = vb_ask_lsm(call->proc, le16_to_cpu(need->lsm), target);
	vb_proc_put(target);
	return error;
}

/* Answers one need, as far as that can be done without a lock. */
static int vb_answer_need(struct vb_needs *needs, const struct vb_need *need,
			  struct vb_result *result)
{
	struct vb_call *call = needs->call;

	switch (le16_to_cpu(need->kind)) {
	case VB_NEED_DATA:
		return vb_gather_range(call->msg, &call->pins,
				       le64_to_cpu(need->address),
				       le64_to_cpu(need->length),
				       vb_room(call->msg), &result->range);
	case VB_NEED_PAGES:
		return vb_note_pages(needs, need);
	case VB_NEED_FILES:
		return vb_get_files(needs, need, result);
	default:
		return vb_get_opinion(needs, need);
	}
}

/* Fills the slots of all PAGES needs that are in order so far. */
static void vb_supply_all(struct vb_needs *needs)
{
	u32 i;

	for (i = 0; i < needs->count; i++) {
		struct vb_need need = vb_need_at(needs, i);
		struct vb_result *result = &needs->results[i];
		int error;

		if (le16_to_cpu(need.kind) != VB_NEED_PAGES || result->error)
			continue;
		error = vb_pages_supply(needs->target, &needs->fresh,
					vb_need_list(needs, &need),
					le32_to_cpu(need.count),
					needs->call->msg->out +
					le32_to_cpu(result->offset));
		result->error = cpu_to_le32(error);
		if (!error)
			result->count = need.count;
	}
}

/* Posts the CONTINUE; pages are looked at under the mutex that covers the post. */
static int vb_post_results(struct vb_needs *needs)
{
	struct vb_call *call = needs->call;
	int error;

	if (!needs->target)
		return vb_post(call->dev, call->msg);
	mutex_lock(&needs->target->pages_mutex);
	vb_supply_all(needs);
	error = vb_post(call->dev, call->msg);
	mutex_unlock(&needs->target->pages_mutex);
	return error;
}

/* Answers the NEEDS in call->reply, and leaves the next answer there. */
int vb_answer_needs(struct vb_call *call)
{
	const struct vb_answer *answer = &call->reply.answer;
	struct vb_needs needs = {
		.call = call,
		.count = le32_to_cpu(answer->list_count),
	};
	struct vb_message *msg = call->msg;
	struct vb_continue *body;
	int error;
	u32 i;

	needs.list = vb_reply_at(&call->reply, le32_to_cpu(answer->list_offset),
				 needs.count, sizeof(struct vb_need));
	if (!needs.list || !needs.count || needs.count > VB_NEEDS_MAX) {
		vb_device_bug(call->dev, "NEEDS without a list that fits");
		return -EIO;
	}
	INIT_LIST_HEAD(&needs.fresh);

	body = vb_begin_call(call, VB_CONTINUE, sizeof(*body));
	body->reason = cpu_to_le32(VB_CONT_NEEDS);
	body->result_offset = cpu_to_le32(msg->length);
	body->result_count = cpu_to_le32(needs.count);
	needs.results = vb_take(msg, needs.count * sizeof(*needs.results));
	memset(needs.results, 0, needs.count * sizeof(*needs.results));
	for (i = 0; i < needs.count; i++) {
		struct vb_need need = vb_need_at(&needs, i);

		error = vb_reserve_room(&needs, &need, &needs.results[i]);
		if (error)
			vb_device_bug(call->dev, "a need that cannot be met");
		needs.results[i].error = cpu_to_le32(error);
	}
	for (i = 0; i < needs.count; i++) {
		struct vb_need need = vb_need_at(&needs, i);

		if (needs.results[i].error)
			continue;
		error = vb_answer_need(&needs, &need, &needs.results[i]);
		needs.results[i].error = cpu_to_le32(error);
	}

	error = vb_post_results(&needs);
	vb_pages_drop(&needs.fresh);
	if (needs.target)
		vb_proc_put(needs.target);
	return error ? error : vb_answer(call->dev, msg, &call->reply);
}

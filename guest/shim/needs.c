// SPDX-License-Identifier: GPL-2.0-only
/*
 * NEEDS: what the core misses, got in the caller's own context and sent back in
 * one CONTINUE.
 *
 * Data, files and hooks are asked for with no lock held. Pages come last, since
 * the target's pages_mutex is held from looking at its slots until the message
 * is posted; so one message serves pages of one target. A list that does not
 * fit is answered in part: the core asks again for the rest.
 */
#include "shim.h"

/* Results of one message: what is left of the page holds a window of pages. */
#define VB_RESULTS_MAX	24

/* Answers one need; false: no room for it, or it must wait for the next message. */
static bool vb_answer_need(struct vb_call *call, const struct vb_need *need,
			   struct vb_result *result, struct vb_supply *supply)
{
	struct vb_message *msg = call->msg;
	u32 count = le32_to_cpu(need->count);
	struct vb_proc *target;
	const u8 *list;
	int error = 0;
	u32 done = 0;
	void *at;

	switch (le16_to_cpu(need->kind)) {
	case VB_NEED_DATA:
		if (vb_room(msg) < sizeof(__le64))
			return false;
		error = vb_gather_range(msg, &call->pins,
					le64_to_cpu(need->address),
					le64_to_cpu(need->length),
					vb_room(msg), &result->range);
		goto out;
	case VB_NEED_PAGES:
	case VB_NEED_FILES:
		list = vb_reply_at(&call->reply, le32_to_cpu(need->offset),
				   count, sizeof(__le32));
		if (!list || !count || count > VB_PAGE_SIZE) {
			error = -EINVAL;
			goto out;
		}
		break;
	case VB_NEED_LSM:
		list = NULL;
		break;
	default:
		error = -EINVAL;
		goto out;
	}

	target = vb_proc_find(call->dev, le32_to_cpu(need->proc));
	if (!target) {
		error = -ESRCH;
		goto out;
	}
	switch (le16_to_cpu(need->kind)) {
	case VB_NEED_LSM:
		error = vb_ask_lsm(call->proc, le16_to_cpu(need->lsm), target);
		break;
	case VB_NEED_FILES:
		count = min_t(u32, count, vb_room(msg) / sizeof(__le32));
		if (!count) {
			vb_proc_put(target);
			return false;
		}
		at = vb_take(msg, count * sizeof(__le32));
		error = vb_send_files(call, target, list, count, at, &done);
		result->offset = cpu_to_le32(vb_offset(msg, at));
		break;
	case VB_NEED_PAGES:
		if (count > VB_WINDOW_PAGES) {
			error = -EINVAL;
			break;
		}
		if (supply->target || vb_room(msg) < count * sizeof(__le64)) {
			vb_proc_put(target);
			return false;
		}
		at = vb_take(msg, count * sizeof(__le64));
		supply->target = target;
		supply->slots = list;
		supply->count = count;
		supply->pfns = at;
		error = vb_supply_prepare(supply);
		result->offset = cpu_to_le32(vb_offset(msg, at));
		/* The supply has the reference; its result is written at the end. */
		result->error = cpu_to_le32(error);
		return true;
	}
	vb_proc_put(target);
out:
	if (error == -EINVAL)
		vb_device_bug(call->dev, "need without sense");
	result->error = cpu_to_le32(error);
	result->count = cpu_to_le32(done);
	return true;
}

/* Answers the NEEDS in call->reply, and leaves the next answer there. */
int vb_answer_needs(struct vb_call *call)
{
	struct vb_message *msg = call->msg;
	struct vb_result *results, *pages = NULL;
	struct vb_supply supply;
	struct vb_continue *body;
	u32 count = le32_to_cpu(call->reply.answer.list_count);
	const u8 *list;
	int error;
	u32 i;

	list = vb_reply_at(&call->reply,
			   le32_to_cpu(call->reply.answer.list_offset), count,
			   sizeof(struct vb_need));
	if (!list || !count) {
		vb_device_bug(call->dev, "NEEDS without a list");
		return -EIO;
	}
	count = min_t(u32, count, VB_RESULTS_MAX);

	vb_supply_init(&supply);
	body = vb_begin_call(call, VB_CONTINUE, sizeof(*body));
	body->reason = cpu_to_le32(VB_CONT_NEEDS);
	body->result_offset = cpu_to_le32(msg->length);
	results = vb_take(msg, count * sizeof(*results));
	memset(results, 0, count * sizeof(*results));
	for (i = 0; i < count; i++) {
		struct vb_need need;
		bool before = supply.target;

		memcpy(&need, list + i * sizeof(need), sizeof(need));
		if (!vb_answer_need(call, &need, &results[i], &supply))
			break;
		if (supply.target && !before)
			pages = &results[i];
	}
	body->result_count = cpu_to_le32(i);

	if (pages && !pages->error) {
		mutex_lock(&supply.target->pages_mutex);
		error = vb_supply_fill(&supply);
		pages->error = cpu_to_le32(error);
		pages->count = cpu_to_le32(error ? 0 : supply.count);
		error = vb_post(call->dev, msg);
		mutex_unlock(&supply.target->pages_mutex);
	} else {
		error = vb_post(call->dev, msg);
	}
	/* Lists in the old answer are dead from the post on. */
	vb_supply_end(&supply);
	return error ? error : vb_answer(call->dev, msg, &call->reply);
}

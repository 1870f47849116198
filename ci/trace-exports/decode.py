"""Decodes a Perfetto trace with the published protos and applies the rules of trace_processor's binder tracker.

usage: decode.py TRACE CALLS.jsonl

Every synchronous call must close, flow to its server, and have processes with names at both ends; the
numbers must be those of `bindervm trace --calls --jsonl` of the same recordings.
"""
import json
import sys
from collections import defaultdict

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos

FAILURES = {0x7205, 0x7211, 0x7212}


def main(trace_path, calls_path):
    trace = protos.Trace()
    with open(trace_path, "rb") as file:
        trace.ParseFromString(file.read())
    packets = trace.packet
    assert packets, "no packets"
    first = packets[0]
    assert first.HasField("clock_snapshot") and not first.HasField("machine_id"), "the clocks come first, the host's"
    clocks = {clock.clock_id for clock in first.clock_snapshot.clocks}
    assert clocks == {1, 3, 6} and first.clock_snapshot.primary_trace_clock == 6, clocks

    names, machines, last = {}, {}, defaultdict(int)
    stacks, sent = defaultdict(list), {}
    calls = closed = flows = oneways = 0
    aidl = []
    for packet in packets[1:]:
        assert packet.machine_id > 0 and packet.trusted_packet_sequence_id > 0
        machine = packet.machine_id
        if packet.HasField("system_info"):
            machines[machine] = packet.system_info.machine_name
        if packet.HasField("process_tree"):
            for process in packet.process_tree.processes:
                names[machine, process.pid] = process.cmdline[0]
            for thread in packet.process_tree.threads:
                names[machine, "tid", thread.tid] = thread.tgid
        if not packet.HasField("ftrace_events"):
            continue
        assert packet.ftrace_events.HasField("cpu")
        for event in packet.ftrace_events.event:
            assert event.timestamp > last[machine], "times ascend strictly"
            last[machine] = event.timestamp
            tgid = names.get((machine, "tid", event.pid))
            assert tgid is not None, f"thread {event.pid} has no process"
            stack = stacks[machine, event.pid]
            kind = event.WhichOneof("event")
            if kind == "binder_transaction":
                fields = event.binder_transaction
                sent[machine, fields.debug_id] = fields
                if fields.reply:
                    assert stack.pop() == "reply", "only the reply slice is open"
                elif fields.flags & 1:
                    oneways += 1
                else:
                    calls += 1
                    stack.append("call")
            elif kind == "binder_transaction_received":
                fields = sent[machine, event.binder_transaction_received.debug_id]
                if fields.reply:
                    assert stack.pop() == "call"
                    closed += 1
                else:
                    flows += 1
                    if not fields.flags & 1:
                        stack.append("reply")
            elif kind == "print":
                buf = getattr(event, "print").buf
                if buf.startswith("B|"):
                    _, pid, name = buf.split("|", 2)
                    assert int(pid) == tgid and name.count("::") == 4, buf
                    aidl.append(name.split("::")[2:4])
                    stack.append("aidl")
                else:
                    assert stack.pop() == "aidl", buf
            elif kind == "binder_return" and event.binder_return.cmd in FAILURES and stack[-1:] == ["call"]:
                stack.pop()
                closed += 1

    with open(calls_path) as file:
        lines = [json.loads(line) for line in file]
    recorded = [line for line in lines if line["kind"] == "call"]
    answered = [call for call in recorded if not call["oneway"] and "reply" in call]
    assert closed >= len(answered), (closed, len(answered))
    assert flows == sum("queue_ns" in call for call in recorded), flows
    assert len(aidl) == sum("queue_ns" in call and "iface" in call for call in recorded), len(aidl)
    guests = {call["machine"]: call["guest"] for call in recorded}
    assert machines == guests, (machines, guests)
    wanted = {call[end]["proc"] for call in recorded for end in ("client", "server") if "proc" in call.get(end, {})}
    assert wanted <= set(names.values()), wanted - set(names.values())
    print(f"{len(packets)} packets, {len(machines)} guests: {calls} calls, {closed} closed, {oneways} oneway, "
          f"{flows} flows, {len(aidl)} named: as recorded")


main(*sys.argv[1:])

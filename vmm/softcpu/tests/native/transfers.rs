//! Jumps, loops, calls and returns: small programs whose registers tell the way that was taken.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Writes a program.
pub type Program = Box<dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>>;

/// One for each form of near control transfer.
pub fn programs() -> Vec<Program> {
    let mut programs: Vec<Program> = vec![
        Box::new(|a| called(a, |a, function| a.call(function), |a| a.ret())),
        Box::new(|a| called(a, |a, function| a.call(function), |a| a.ret_1(24))),
        Box::new(|a| called(a, |a, function| through_register(a, function, |a| a.call(rax)), |a| a.ret())),
        Box::new(|a| called(a, |a, function| through_memory(a, function, |a, at| a.call(at)), |a| a.ret())),
        Box::new(|a| jumped(a, |a, target| through_register(a, target, |a| a.jmp(rax)))),
        Box::new(|a| jumped(a, |a, target| through_memory(a, target, |a, at| a.jmp(at)))),
        Box::new(|a| {
            jumped(a, |a, target| through_register(a, target, |a| a.push(rax)).and_then(|()| a.ret()))
        }),
    ];
    let conditions = (0..16u8).flat_map(|condition| [vec![0x70 | condition], vec![0x0f, 0x80 | condition]]);
    // JMP; LOOPNE, LOOPE, LOOP, JRCXZ, with both sizes of the counter.
    let others = [vec![0xeb], vec![0xe9]].into_iter();
    let counted = (0xe0..0xe4).flat_map(|opcode| [vec![opcode], vec![0x67, opcode]]);
    for opcode in conditions.chain(others).chain(counted) {
        let near = matches!(opcode[..], [0x0f, _] | [0xe9]);
        programs.push(Box::new(move |a| {
            // Over the next instruction, of three bytes.
            let distance: &[u8] = if near { &[3, 0, 0, 0] } else { &[3] };
            a.db(&[&opcode[..], distance].concat())?;
            a.db(&[0x48, 0xff, 0xc3])?;
            a.inc(rdx)
        }));
    }
    programs
}

fn jumped(
    a: &mut CodeAssembler,
    jump: impl Fn(&mut CodeAssembler, CodeLabel) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let mut target = a.create_label();
    jump(a, target)?;
    a.inc(rbx)?;
    a.set_label(&mut target)?;
    a.inc(rdx)
}

fn called(
    a: &mut CodeAssembler,
    call: impl Fn(&mut CodeAssembler, CodeLabel) -> Result<(), IcedError>,
    ret: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let (mut function, mut end) = (a.create_label(), a.create_label());
    call(a, function)?;
    a.inc(rbx)?;
    a.jmp(end)?;
    a.set_label(&mut function)?;
    a.inc(rdx)?;
    ret(a)?;
    a.set_label(&mut end)?;
    a.inc(rcx)
}

fn through_register(
    a: &mut CodeAssembler,
    target: CodeLabel,
    go: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    a.lea(rax, ptr(target))?;
    go(a)
}

fn through_memory(
    a: &mut CodeAssembler,
    target: CodeLabel,
    go: impl Fn(&mut CodeAssembler, AsmMemoryOperand) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    a.lea(rax, ptr(target))?;
    a.mov(qword_ptr(rsp - 64), rax)?;
    go(a, qword_ptr(rsp - 64))
}

//! The program that `bindervm bench` measures: PID 1 of a guest, or a process of the host.
//!
//! It works through its kernels, prints a line before and behind each, and waits for a line after
//! every one that it prints, so that whoever measures can look at a clock while nothing happens.
//! `build.rs` compiles it, without the standard library and without vector instructions in loops.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);

const READ: u64 = 0;
const WRITE: u64 = 1;
const GETPID: u64 = 39;
const EXIT: u64 = 60;
const REBOOT: u64 = 169;
const IOPL: u64 = 172;

fn syscall(number: u64, a: u64, b: u64, c: u64) -> i64 {
    let result;
    // SAFETY: the kernel touches nothing but what the arguments name, which the callers own.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
            lateout("rcx") _, lateout("r11") _);
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    say(b"bench: failed\n");
    stop()
}

fn stop() -> ! {
    if syscall(GETPID, 0, 0, 0) == 1 {
        // Power off; a machine that cannot stays halted.
        syscall(REBOOT, 0xfee1_dead, 672_274_793, 0x4321_fedc);
    }
    loop {
        syscall(EXIT, 0, 0, 0);
    }
}

fn say(mut text: &[u8]) {
    while !text.is_empty() {
        let n = syscall(WRITE, 1, text.as_ptr() as u64, text.len() as u64);
        if n <= 0 {
            stop();
        }
        text = &text[n as usize..];
    }
}

/// Waits for a line of input; at its end there is nothing more to do.
fn wait() {
    let mut byte = 0u8;
    while byte != b'\n' {
        if syscall(READ, 0, &raw mut byte as u64, 1) <= 0 {
            stop();
        }
    }
}

fn line(word: &[u8], name: &[u8], result: Option<u64>) {
    let mut text = [0u8; 80];
    let mut len = 0;
    let mut add = |bytes: &[u8]| {
        text[len..len + bytes.len()].copy_from_slice(bytes);
        len += bytes.len();
    };
    add(b"bench: ");
    add(word);
    add(b" ");
    add(name);
    if let Some(result) = result {
        add(b" ");
        for i in (0..16).rev() {
            add(&[b"0123456789abcdef"[(result >> (4 * i)) as usize & 15]]);
        }
    }
    add(b"\n");
    say(&text[..len]);
    wait();
}

extern "C" fn main() -> ! {
    line(b"ready", b"boot", None);
    measure(b"sha256", sha256);
    measure(b"sort", sort);
    measure(b"interpreter", interpreter);
    measure(b"loop", load_store_loop);
    if syscall(IOPL, 3, 0, 0) == 0 {
        measure(b"exits", exits);
    }
    line(b"end", b"all", None);
    stop()
}

fn measure(name: &[u8], kernel: fn() -> u64) {
    line(b"ready", name, None);
    let result = kernel();
    line(b"done", name, Some(result));
}

/// A pseudo-random number (xorshift).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

const K: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

/// SHA-256's compression of 8 MiB.
fn sha256() -> u64 {
    let mut state: [u32; 8] = [
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
    ];
    let mut seed = 1;
    let mut block = [0u32; 16];
    for _ in 0..(8 << 20) / 64 {
        block[(seed & 15) as usize] = next(&mut seed) as u32;
        compress(&mut state, &block);
    }
    (state[0] as u64) << 32 | state[7] as u64
}

#[inline(never)]
fn compress(state: &mut [u32; 8], block: &[u32; 16]) {
    let mut w = [0u32; 64];
    w[..16].copy_from_slice(block);
    for i in 16..64 {
        let s0 = w[i - 15].rotate_right(7) ^ w[i - 15].rotate_right(18) ^ w[i - 15] >> 3;
        let s1 = w[i - 2].rotate_right(17) ^ w[i - 2].rotate_right(19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for i in 0..64 {
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let t1 = h.wrapping_add(s1).wrapping_add(e & f ^ !e & g).wrapping_add(K[i]).wrapping_add(w[i]);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t2 = s0.wrapping_add(a & b ^ a & c ^ b & c);
        (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(t1), c, b, a, t1.wrapping_add(t2));
    }
    for (s, x) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *s = s.wrapping_add(x);
    }
}

const NUMBERS: usize = 500_000;
static mut NUMBER: [u32; NUMBERS] = [0; NUMBERS];

/// Quicksort of half a million numbers.
fn sort() -> u64 {
    // SAFETY: there is one thread, and one call.
    let numbers = unsafe { &mut *(&raw mut NUMBER) };
    let mut seed = 2;
    for number in numbers.iter_mut() {
        *number = next(&mut seed) as u32;
    }
    quicksort(numbers);
    let ordered = numbers.windows(2).all(|pair| pair[0] <= pair[1]);
    (ordered as u64) << 32 | numbers[NUMBERS / 2] as u64
}

fn quicksort(mut numbers: &mut [u32]) {
    while numbers.len() > 16 {
        let pivot = numbers[numbers.len() / 2];
        let (mut low, mut high) = (0, numbers.len() - 1);
        loop {
            while numbers[low] < pivot {
                low += 1;
            }
            while numbers[high] > pivot {
                high -= 1;
            }
            if low >= high {
                break;
            }
            numbers.swap(low, high);
            low += 1;
            high -= 1;
        }
        let (left, right) = numbers.split_at_mut(low);
        quicksort(left);
        numbers = right;
    }
    for i in 1..numbers.len() {
        let mut j = i;
        while j > 0 && numbers[j - 1] > numbers[j] {
            numbers.swap(j - 1, j);
            j -= 1;
        }
    }
}

/// A register machine of ten instructions, dispatched by a `match`.
fn interpreter() -> u64 {
    // Operation, destination, first, second; the last is a constant or a target for some.
    const PROGRAM: [[u8; 4]; 14] = [
        [0, 1, 1, 7],  // r1 += 7
        [1, 2, 2, 1],  // r2 ^= r1
        [2, 3, 2, 5],  // r3 = r2 rotated by 5
        [3, 2, 2, 3],  // r2 += r3
        [8, 4, 2, 15], // r4 = r2 & 15
        [6, 5, 4, 0],  // r5 = memory[r4]
        [3, 5, 5, 1],  // r5 += r1
        [7, 5, 4, 0],  // memory[r4] = r5
        [4, 3, 3, 5],  // r3 -= r5
        [5, 3, 3, 2],  // r3 *= r2
        [1, 2, 2, 3],  // r2 ^= r3
        [0, 0, 0, 255], // r0 -= 1
        [9, 0, 0, 0],  // to the start while r0 is not 0
        [10, 2, 0, 0], // the result is r2
    ];
    let mut r = [0u32; 8];
    r[0] = 4_000_000;
    let mut memory = [1u32; 16];
    let mut pc = 0;
    loop {
        let [op, d, a, b] = core::hint::black_box(&PROGRAM)[pc];
        let (d, a) = (d as usize & 7, a as usize & 7);
        pc += 1;
        match op {
            0 => r[d] = r[a].wrapping_add(b as i8 as u32),
            1 => r[d] = r[a] ^ r[b as usize & 7],
            2 => r[d] = r[a].rotate_left(b as u32),
            3 => r[d] = r[a].wrapping_add(r[b as usize & 7]),
            4 => r[d] = r[a].wrapping_sub(r[b as usize & 7]),
            5 => r[d] = r[a].wrapping_mul(r[b as usize & 7]),
            6 => r[d] = memory[r[a] as usize & 15],
            7 => memory[r[a] as usize & 15] = r[d],
            8 => r[d] = r[a] & b as u32,
            9 => {
                if r[d] != 0 {
                    pc = b as usize;
                }
            }
            _ => return r[d] as u64,
        }
    }
}

/// Load, add, exclusive or, store, branch, over 16 KiB.
fn load_store_loop() -> u64 {
    let mut words = [3u64; 2048];
    let mut sum = 1u64;
    for _ in 0..40_000 {
        // SAFETY: the addresses are those of the array's elements.
        unsafe {
            asm!(
                "2:",
                "mov {t}, [{p}]",
                "add {s}, {t}",
                "xor {t}, {s}",
                "mov [{p}], {t}",
                "add {p}, 8",
                "dec {n}",
                "jnz 2b",
                p = inout(reg) words.as_mut_ptr() => _,
                n = inout(reg) 2048u64 => _,
                s = inout(reg) sum,
                t = out(reg) _,
            );
        }
    }
    sum ^ words[77]
}

/// Reads of the serial port's line status.
fn exits() -> u64 {
    let mut ready = 0;
    for _ in 0..100_000 {
        let status: u8;
        // SAFETY: reading this register changes nothing but error bits.
        unsafe { asm!("in al, dx", in("dx") 0x3fdu16, out("al") status) };
        ready += (status >> 5 & 1) as u64;
    }
    ready
}

/// The standard library's parts refer to it; nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

// What the compiler calls for copies.

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: by the caller.
    unsafe { asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _) };
    to
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: by the caller.
    unsafe { asm!("rep stosb", inout("rdi") to => _, in("al") byte as u8, inout("rcx") len => _) };
    to
}

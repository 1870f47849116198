/* A 32-bit program without a C library, whose output is the same on every x86 kernel with 32-bit
 * system calls: what compatibility mode has and 64-bit mode has not.
 *
 *   gcc -m32 -static -nostdlib -ffreestanding -fno-stack-protector -fno-pie -no-pie -O1 compat.c
 */
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

static u32 sysinfo;
static volatile u32 faults;

static int call(int number, u32 a, u32 b, u32 c)
{
	int result;
	asm volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c) : "memory");
	return result;
}

/* The same through the vDSO's entry, which is SYSENTER where the CPU has it. */
static int fast_call(int number, u32 a, u32 b, u32 c)
{
	int result;
	asm volatile("call *%5" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c), "r"(sysinfo) : "memory");
	return result;
}

static char line[200];
static int used;

static void put(char c) { line[used++] = c; }
static void text(const char *s) { while (*s) put(*s++); }
static void hex(u32 value)
{
	put(' ');
	for (int shift = 28; shift >= 0; shift -= 4)
		put("0123456789abcdef"[value >> shift & 15]);
}
static void end_line(void)
{
	put('\n');
	(used & 1 ? call : fast_call)(4, 1, (u32)line, used);
	used = 0;
}

/* Flags as far as they are defined. */
#define FLAGS "pushfl\n popl %1"

static void decimal(void)
{
	text("decimal");
	for (u32 i = 0; i < 0x10000; i += 0x1357) {
		u32 a, flags;
		asm volatile("addb %%ah, %%al\n daa\n " FLAGS : "=a"(a), "=r"(flags) : "0"(i));
		hex(a), hex(flags & 0xd5);
		asm volatile("subb %%ah, %%al\n das\n " FLAGS : "=a"(a), "=r"(flags) : "0"(i));
		hex(a), hex(flags & 0xd5);
		end_line();
		asm volatile("addb %%ah, %%al\n aaa\n " FLAGS : "=a"(a), "=r"(flags) : "0"(i));
		hex(a), hex(flags & 0x11);
		asm volatile("subb %%ah, %%al\n aas\n " FLAGS : "=a"(a), "=r"(flags) : "0"(i));
		hex(a), hex(flags & 0x11);
		asm volatile("aam\n " FLAGS : "=a"(a), "=r"(flags) : "0"(i));
		hex(a), hex(flags & 0xc4);
		asm volatile("aad\n " FLAGS : "=a"(a), "=r"(flags) : "0"(i));
		hex(a), hex(flags & 0xc4);
		end_line();
	}
}

static void stack(void)
{
	u32 before, after, sum;
	asm volatile("movl %%esp, %0\n"
		     "movl $1, %%eax; movl $2, %%ecx; movl $3, %%edx; pushal\n"
		     "xorl %%eax, %%eax; xorl %%ecx, %%ecx; xorl %%edx, %%edx; popal\n"
		     "leal (%%eax,%%ecx,4), %2; addl %%edx, %2\n"
		     "movl %%esp, %1"
		     : "=m"(before), "=m"(after), "=&r"(sum) : : "eax", "ecx", "edx");
	text("stack"), hex(before - after), hex(sum);
	u32 popped;
	asm volatile("pushl $0x11; pushl $0x22; popl (%%esp); popl %0" : "=r"(popped) : : "memory");
	hex(popped);
	u32 frame;
	asm volatile("pushl %%ebp; movl %%esp, %%ebp; movl %%esp, %%edi\n"
		     "enter $16, $2\n movl %%edi, %0; subl %%esp, %0\n leave\n"
		     "subl %%esp, %%edi; shll $8, %%edi; addl %%edi, %0; popl %%ebp"
		     : "=&a"(frame) : : "edi", "memory");
	hex(frame);
	/* One whose outer frame cannot be read: the handler steps over it, and nothing has moved. */
	faults = 0;
	asm volatile("pushl %%ebp; movl $16, %%ebp; movl %%esp, %%edi\n"
		     "enter $16, $2\n"
		     "subl %%esp, %%edi; leal (%%edi,%%ebp), %0; popl %%ebp"
		     : "=&a"(frame) : : "edi", "memory");
	hex(frame), hex(faults);
	u32 word;
	asm volatile("pushw $0x1234; pushw %%cs; popw %%ax; popw %%ax; movzwl %%ax, %0" : "=r"(word) : : "eax");
	hex(word);
	end_line();
}

/* A data segment of 256 bytes that begins at `area`, in the LDT. */
static u8 area[4096];
struct descriptor { u32 number, base, limit, flags; };

struct frame { u32 gs, fs, es, ds, edi, esi, ebp, esp, ebx, edx, ecx, eax, trap, error, eip; };

/* The handler gets its context on the stack: signal number, then the frame of old signals. */
static void on_fault(int signal, struct frame context)
{
	struct frame *saved = &context;
	faults = faults * 16 + signal;
	/* The faulting instructions are two bytes long, ENTER is four. */
	*(volatile u32 *)&saved->eip += *(u8 *)saved->eip == 0xc8 ? 4 : 2;
}
asm(".text\n restorer: popl %eax; movl $119, %eax; int $0x80");
extern char restorer[];

struct action { void *handler; u32 mask, flags; void *restorer; };

static void segments(void)
{
	struct descriptor ldt = { 0, (u32)area, 255, 0x51 & ~0x10 & ~0x40 };
	text("segments");
	/* 32-bit, data, limit in bytes, present, usable. */
	ldt.flags = 1 | 1 << 6;
	hex(call(123, 1, (u32)&ldt, sizeof ldt));
	area[7] = 0x42, area[255] = 0x99;
	u32 value;
	asm volatile("movw %w1, %%es; movzbl %%es:7, %0" : "=r"(value) : "r"(7));
	hex(value);
	asm volatile("movl $255, %%ebx; movzbl %%es:(%%ebx), %0" : "=r"(value) : : "ebx");
	hex(value);
	faults = 0;
	/* One byte beyond the limit; then a null selector. */
	asm volatile("movl $256, %%ebx; .byte 0x26; movb (%%ebx), %%al; nop" : : : "eax", "ebx");
	hex(faults);
	asm volatile("pushl %ds; popl %es");
	asm volatile("lsl %1, %0" : "=r"(value) : "r"(7));
	hex(value);
	/* A string copied into the segment. */
	asm volatile("pushl %%es; movw %w0, %%es; movl $32, %%edi; movl $4, %%ecx; movl $0x44434241, %%eax\n"
		     "rep stosl; popl %%es" : : "r"(7) : "edi", "ecx", "eax", "memory");
	hex(*(u32 *)(area + 44));
	/* A thread area, reached through GS with a negative offset. */
	struct descriptor tls = { -1, (u32)area + 2048, 0xfffff, 0x51 };
	hex(call(243, (u32)&tls, 0, 0));
	*(u32 *)(area + 2044) = 0xfeedface;
	asm volatile("movw %w1, %%gs; movl %%gs:0xfffffffc, %0" : "=r"(value) : "r"(tls.number * 8 + 3));
	hex(value);
	end_line();
}

static void faulting(void)
{
	text("faults");
	faults = 0;
	asm volatile("ud2");
	asm volatile("movl $0x10, %%ebx; movl (%%ebx), %%eax" : : : "eax", "ebx");
	asm volatile("xorl %%ecx, %%ecx; movl $1, %%eax; xorl %%edx, %%edx; divl %%ecx" : : : "eax", "ecx", "edx");
	u32 bounds[2] = { 1, 5 };
	asm volatile("movl %0, %%ecx; movl $9, %%eax; bound %%eax, (%%ecx)" : : "r"(bounds) : "eax", "ecx", "memory");
	asm volatile("cli; nop");
	hex(faults);
	end_line();
}

static void arithmetic(void)
{
	u32 state = 12345, sum = 0;
	text("arithmetic");
	for (int i = 0; i < 100000; i++) {
		state = state * 1664525 + 1013904223;
		u32 high, low = state, count = state >> 27;
		asm("mull %2" : "=d"(high), "+a"(low) : "r"(state ^ 0x9e3779b9));
		asm("rcll %%cl, %0; adcl $3, %0" : "+r"(low) : "c"(count));
		asm("shldl %%cl, %1, %0" : "+r"(high) : "r"(low), "c"(count));
		sum += high ^ low;
		asm("bswap %0; sbbl $1, %0; incl %0; decl %0" : "+r"(sum));
	}
	hex(sum);
	double x = 1.5;
	for (int i = 0; i < 50; i++)
		x = x * 1.0625 + 0.1;
	u32 parts[2];
	asm volatile("fldl %1; fsqrt; fstpl %0" : "=m"(parts) : "m"(x));
	hex(parts[0]), hex(parts[1]);
	u8 bytes[16] = "0123456789abcde", out[16];
	asm volatile("movdqu %1, %%xmm0; paddb %%xmm0, %%xmm0; movdqu %%xmm0, %0" : "=m"(out) : "m"(bytes));
	hex(*(u32 *)(out + 4));
	u16 loops = 300;
	u32 turns = 0;
	asm volatile("movw %w1, %%cx; 1: incl %0; .byte 0x67; loop 1b" : "+r"(turns) : "r"(loops) : "ecx");
	hex(turns);
	asm volatile("movl %1, %%ebx; movl $3, %%eax; xlatb; movzbl %%al, %0" : "=r"(turns) : "r"(bytes) : "eax", "ebx");
	hex(turns);
	end_line();
}

/* A walk into 64-bit code and back: the kernel's own 64-bit user segment is 0x33, ours 0x23. */
static void long_mode(void)
{
	u32 low;
	asm volatile("lcall $0x33, $1f; jmp 2f\n"
		     "1: .byte 0x48, 0xb8; .quad 0x123456789abcdef0\n" /* mov rax, imm64 */
		     ".byte 0x48, 0xc1, 0xe8, 0x10\n"                 /* shr rax, 16 */
		     "lret\n2: movl %%eax, %0" : "=r"(low) : : "eax", "memory");
	text("long"), hex(low);
	end_line();
}

static void start(u32 *stack_top)
{
	u32 *at = stack_top + 1 + stack_top[0] + 1;
	while (*at++)
		;
	for (; at[0]; at += 2)
		if (at[0] == 32)
			sysinfo = at[1];
	struct action action = { on_fault, 0, 0x04000000 | 0x40000000, restorer };
	int signals[] = { 4, 8, 11 };
	for (int i = 0; i < 3; i++)
		call(67, signals[i], (u32)&action, 0);
	decimal();
	stack();
	segments();
	faulting();
	arithmetic();
	long_mode();
	call(1, 0, 0, 0);
}
asm(".globl _start\n _start: movl %esp, %eax; andl $-16, %esp; subl $12, %esp; pushl %eax; call enter_c");
void enter_c(u32 *stack_top) { start(stack_top); }

/* Meets instructions that the software CPU lacks: AVX, which its CPUID does not announce.
 *
 *   missing CPU TIMES ...   TIMES on each CPU, at once
 */
#define _GNU_SOURCE
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf behind;

static void invalid_opcode(int signal)
{
	siglongjmp(behind, signal);
}

static int on_cpu(int cpu, int times)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		return 1;
	signal(SIGILL, invalid_opcode);
	for (volatile int i = 0; i < times; i++) {
		if (!sigsetjmp(behind, 1)) {
			asm volatile("vaddps %ymm1, %ymm2, %ymm3");
			return 2;
		}
		if (sched_getcpu() != cpu)
			return 3;
		sched_yield();
	}
	/* One more, of another kind, that nobody is there to catch. */
	signal(SIGILL, SIG_DFL);
	asm volatile("vpxor %ymm1, %ymm2, %ymm3");
	return 2;
}

int main(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i += 2)
		if (fork() == 0)
			_exit(on_cpu(atoi(argv[i]), atoi(argv[i + 1])));
	int status;
	while (wait(&status) > 0)
		printf("%s %d\n", WIFSIGNALED(status) ? "signal" : "status",
		       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	return 0;
}

/* Prints what glibc computes, in hexadecimal: elementary functions in three precisions, conversions,
 * string functions and sorting. Linked statically, it runs the same code wherever it runs.
 *
 *   gcc -O1 -static -fno-builtin -ffp-contract=off libm.c -lm
 */
#include <complex.h>
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t state = 88172645463325252ull;
static uint64_t next(void)
{
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return state;
}

/* A number of a magnitude that functions are used with. */
static double number(void)
{
	double mantissa = (double)(int64_t)next() / 9.2e18;
	return ldexp(mantissa, (int)(next() % 24) - 12);
}

#define ONE(name) printf(#name " %a %a %La\n", name(x), (double)name##f((float)x), name##l((long double)x))
#define TWO(name) printf(#name " %a %a %La\n", name(x, y), (double)name##f((float)x, (float)y), name##l(x, y))

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(void)
{
	for (int i = 0; i < 200; i++) {
		double x = number(), y = number();
		printf("%a %a\n", x, y);
		ONE(sin), ONE(cos), ONE(tan), ONE(asinh), ONE(atan), ONE(sinh), ONE(tanh), ONE(exp), ONE(exp2);
		ONE(expm1), ONE(cbrt), ONE(erf), ONE(erfc), ONE(floor), ONE(rint), ONE(trunc), ONE(round);
		TWO(atan2), TWO(fmod), TWO(hypot), TWO(remainder), TWO(nextafter), TWO(fdim), TWO(copysign);
		x = fabs(x);
		ONE(sqrt), ONE(log), ONE(log2), ONE(log10), ONE(log1p), ONE(lgamma), TWO(pow);
		double complex z = csqrt(x + y * I);
		printf("csqrt %a %a\n", creal(z), cimag(z));
	}
	const int rounding[] = { FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO };
	for (int i = 0; i < 4; i++) {
		fesetround(rounding[i]);
		volatile double a = 1.0, b = 3.0;
		volatile long double c = 1.0L, d = 3.0L;
		printf("rounding %a %La %ld %lld\n", a / b, c / d, lrint(-2.5 + i), llrintl(2.5L + i));
	}
	fesetround(FE_TONEAREST);
	for (int i = 0; i < 200; i++) {
		char digits[64];
		double x = number();
		snprintf(digits, sizeof digits, "%.17g", x);
		printf("%s %.3f %g %d %.30Lg\n", digits, x, x, strtod(digits, 0) == x, (long double)x * x);
	}
	double values[1000], sum = 0;
	for (int i = 0; i < 1000; i++)
		values[i] = number();
	qsort(values, 1000, sizeof values[0], by_value);
	for (int i = 0; i < 1000; i++)
		sum = sum * 0.75 + values[i] * i;
	printf("sorted %a %a %a\n", values[0], values[999], sum);
	char *text = malloc(100000);
	for (int i = 0; i < 99999; i++)
		text[i] = 'a' + next() % 26;
	text[99999] = 0;
	printf("text %zu %zu %td %d\n", strlen(text), strcspn(text + 10, "q"), strstr(text, "abc") - text,
	       memcmp(text, text + 1, 50000) > 0);
	time_t when = 1700000000;
	struct tm *day = gmtime(&when);
	strftime(text, 100, "%c", day);
	puts(text);
	return 0;
}

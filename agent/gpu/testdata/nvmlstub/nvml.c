/*
 * A small libnvidia-ml.so for tests of the real dlopen path, with made-up cards. Written from the public interface of
 * the library. Compile-time switches:
 *
 *   CARDS=n    number of cards (default 4)
 *   PLAIN      all cards are healthy and alike; else card 1 has MIG instances, card 2 lacks sensors, card 3 is lost
 *   LACKS      an old library: only the first version of every function, and no power, MIG, ECC and events
 *   NOT_NVML   some other library
 *   INIT=n     what initialising returns
 */
#include <stdio.h>
#include <string.h>

#ifndef CARDS
#define CARDS 4
#endif
#ifndef INIT
#define INIT 0
#endif

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10, LOST = 15 };
#define GIB (1ULL << 30)
#define UNKNOWN (~0ULL)

/* A device handle points to one of these. */
struct device {
	unsigned card;
	int instance; /* 0: the card itself */
};

static struct device cards[CARDS + 1], instances[2] = {{1, 1}, {1, 2}};

static int plain(void)
{
#ifdef PLAIN
	return 1;
#else
	return 0;
#endif
}

static int lost(struct device *d) { return !plain() && d->card == 3; }
static int lacks_sensors(struct device *d) { return !plain() && (d->card == 2 || d->instance); }

#ifndef NOT_NVML

static int init(void)
{
	for (unsigned i = 0; i < CARDS; i++)
		cards[i].card = i;
	return INIT;
}

static int count(unsigned *n)
{
	*n = CARDS;
	return OK;
}

static int handle(unsigned i, struct device **d)
{
	if (i >= CARDS)
		return INVALID;
	*d = &cards[i];
	return OK;
}

int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code)
{
	static char text[32];
	snprintf(text, sizeof text, "stub error %d", code);
	return text;
}

/* The name and UUID of a lost card can still be read: it was lost after the driver was loaded. */
int nvmlDeviceGetUUID(struct device *d, char *s, unsigned n)
{
	snprintf(s, n, d->instance ? "MIG-%08u-%d" : "GPU-%08u", d->card, d->instance);
	return OK;
}

int nvmlDeviceGetName(struct device *d, char *s, unsigned n)
{
	snprintf(s, n, d->instance ? "Stub MIG" : "Stub, 80GB");
	return OK;
}

struct memory { unsigned long long total, free, used; };

int nvmlDeviceGetMemoryInfo(struct device *d, struct memory *m)
{
	if (lost(d))
		return LOST;
	m->total = 80 * GIB;
	m->used = (d->card + 1) * GIB; /* with 1 GiB that the driver keeps */
	m->free = m->total - m->used;
	return OK;
}

struct utilization { unsigned gpu, memory; };

int nvmlDeviceGetUtilizationRates(struct device *d, struct utilization *u)
{
	if (lost(d))
		return LOST;
	if (!plain() && d->card == 1)
		return NOT_SUPPORTED; /* as with MIG */
	u->gpu = 25;
	u->memory = 99;
	return OK;
}

int nvmlDeviceGetTemperature(struct device *d, int sensor, unsigned *celsius)
{
	if (lost(d))
		return LOST;
	if (sensor != 0 || lacks_sensors(d))
		return NOT_SUPPORTED;
	*celsius = 40 + d->card;
	return OK;
}

int nvmlDeviceGetClockInfo(struct device *d, int type, unsigned *mhz)
{
	if (lost(d))
		return LOST;
	if (lacks_sensors(d))
		return NOT_SUPPORTED;
	*mhz = type == 1 ? 1980 : type == 2 ? 2619 : 1;
	return OK;
}

#ifndef LACKS

int nvmlInit_v2(void) { return init(); }
int nvmlDeviceGetCount_v2(unsigned *n) { return count(n); }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, struct device **d) { return handle(i, d); }

struct memory2 { unsigned version; unsigned long long total, reserved, free, used; };

int nvmlDeviceGetMemoryInfo_v2(struct device *d, struct memory2 *m)
{
	if (lost(d))
		return LOST;
	if (m->version != (sizeof *m | 2u << 24))
		return INVALID;
	m->total = 80 * GIB;
	m->reserved = GIB;
	m->used = d->card * GIB;
	m->free = m->total - m->reserved - m->used;
	return OK;
}

int nvmlDeviceGetPowerUsage(struct device *d, unsigned *mw)
{
	if (lost(d))
		return LOST;
	if (lacks_sensors(d))
		return NOT_SUPPORTED;
	*mw = 300500 + d->card * 1000;
	return OK;
}

int nvmlDeviceGetEnforcedPowerLimit(struct device *d, unsigned *mw)
{
	if (lost(d))
		return LOST;
	if (lacks_sensors(d))
		return NOT_SUPPORTED;
	*mw = 700000;
	return OK;
}

int nvmlDeviceGetTotalEccErrors(struct device *d, int type, int counter, unsigned long long *n)
{
	if (lost(d))
		return LOST;
	if (lacks_sensors(d))
		return NOT_SUPPORTED;
	if (counter != 0)
		return INVALID;
	*n = type == 0 ? 7 : d->card;
	return OK;
}

int nvmlDeviceGetMigMode(struct device *d, unsigned *current, unsigned *pending)
{
	if (lost(d))
		return LOST;
	if (!plain() && d->card == 2)
		return NOT_SUPPORTED;
	*current = *pending = !plain() && d->card == 1;
	return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *d, unsigned *n)
{
	*n = 7;
	return OK;
}

/* Places 0 and 3 are taken, the others empty. */
int nvmlDeviceGetMigDeviceHandleByIndex(struct device *d, unsigned i, struct device **m)
{
	if (i != 0 && i != 3)
		return NOT_FOUND;
	*m = &instances[i == 3];
	return OK;
}

int nvmlDeviceGetGpuInstanceId(struct device *d, unsigned *id)
{
	*id = d->instance;
	return OK;
}

struct process { unsigned pid; unsigned long long memory; unsigned gi, ci; };

static int give(struct process *from, unsigned have, unsigned *n, struct process *to)
{
	unsigned room = *n;
	*n = have;
	if (room < have)
		return TOO_SMALL;
	memcpy(to, from, have * sizeof *to);
	return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(struct device *d, unsigned *n, struct process *p)
{
	struct process on_first[] = {{4242, GIB, -1, -1}, {4243, UNKNOWN, -1, -1}}, on_instance = {4244, 2 * GIB, 2, 0};
	if (lost(d))
		return LOST;
	if (d->card == 0)
		return give(on_first, 2, n, p);
	if (d->instance == 2)
		return give(&on_instance, 1, n, p);
	*n = 0;
	return OK;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(struct device *d, unsigned *n, struct process *p)
{
	struct process on_first[] = {{4242, GIB, -1, -1}, {4300, GIB / 2, -1, -1}};
	if (lost(d))
		return LOST;
	if (d->card == 0)
		return give(on_first, 2, n, p);
	*n = 0;
	return OK;
}

/* One event set, with three errors waiting in it: one of a whole card, twice, and one of an instance. */
struct event { struct device *device; unsigned long long type, data; unsigned gi, ci; };
static int set, waiting = 3;
static unsigned long long heard;

int nvmlEventSetCreate(int **s)
{
	*s = &set;
	return OK;
}

int nvmlDeviceRegisterEvents(struct device *d, unsigned long long types, int *s)
{
	if (!plain() && d->card == 2)
		return NOT_SUPPORTED;
	heard |= types;
	return OK;
}

int nvmlEventSetWait_v2(int *s, struct event *e, unsigned ms)
{
	struct event errors[] = {{&cards[1], 8, 94, 2, 0}, {&cards[3 % (CARDS + 1)], 8, 79, -1, -1}, {&cards[3 % (CARDS + 1)], 8, 79, -1, -1}};
	if (plain() || heard != 8 || waiting == 0 || ms != 0)
		return TIMEOUT;
	*e = errors[--waiting];
	return OK;
}

int nvmlEventSetFree(int *s) { return OK; }

#else /* LACKS */

int nvmlInit(void) { return init(); }
int nvmlDeviceGetCount(unsigned *n) { return count(n); }
int nvmlDeviceGetHandleByIndex(unsigned i, struct device **d) { return handle(i, d); }

struct process { unsigned pid; unsigned long long memory; };

int nvmlDeviceGetComputeRunningProcesses(struct device *d, unsigned *n, struct process *p)
{
	unsigned room = *n;
	*n = 1;
	if (room < 1)
		return TOO_SMALL;
	p->pid = 4242;
	p->memory = GIB;
	return OK;
}

#endif
#else /* NOT_NVML */

int hello(void) { return cards[0].instance + instances[0].instance + lost(&cards[0]) + lacks_sensors(&cards[0]); }

#endif

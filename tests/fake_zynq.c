// Loaded before the C library of a Python process on x86-64: files named as those of Linux on a Zynq act as its drivers,
// with the compiled RTL behind them. The program does not notice: it opens, maps, reads, writes and waits as there.
//
// The page of registers may not be touched. An access traps; what a read is to find is fetched from the RTL, the one
// instruction runs, and what a write has left goes to the RTL. The mapped buffer is a cache: only syncs move its lines.

#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, APERTURE = 0x200, LINE = 32, TRAP_FLAG = 0x100, CYCLES = 20000, PATIENCE = 10000 };

static struct {
    void* model;
    int (*read)(void*, uint32_t, uint32_t*);
    int (*write)(void*, uint32_t, uint32_t);
    uint64_t (*run)(void*, uint64_t);
    int (*interrupt)(void*);
    uint8_t* memory;
} rtl;

static uint8_t *page, *cache;
static size_t cache_bytes;
static int unmasked, stepping, stepping_writes;
static uint32_t stepping_at, aperture[2];

uint32_t reads, writes, syncs[2];  // what has happened: accesses of the bus, and syncs for the device and for the CPU
int lose[2];                       // syncs that do nothing
uint32_t wanted[2];                // base and size without which the accelerator would be refused

void attach(void* model, void* read, void* write, void* run, void* interrupt, uint8_t* memory) {
    rtl.model = model;
    rtl.read = (int (*)(void*, uint32_t, uint32_t*))read;
    rtl.write = (int (*)(void*, uint32_t, uint32_t))write;
    rtl.run = (uint64_t(*)(void*, uint64_t))run;
    rtl.interrupt = (int (*)(void*))interrupt;
    rtl.memory = memory;
}

static void fail(const char* what) {
    fprintf(stderr, "fake Zynq: %s\n", what);
    _exit(9);
}

static int is_file(int fd, const char* name) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    size_t wants = strlen(name);
    return n >= (ssize_t)wants && !memcmp(path + n - wants, name, wants);
}

static void on_touch(int number, siginfo_t* info, void* context) {
    greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
    uint8_t* at = info->si_addr;
    if (stepping || !page || at < page || at >= page + PAGE) {
        signal(number, SIG_DFL);  // a fault of the program's own: let it happen again
        return;
    }
    stepping = 1;
    stepping_at = at - page;
    stepping_writes = registers[REG_ERR] >> 1 & 1;
    if (stepping_at % 4) fail("an access that is not aligned");
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    if (!stepping_writes) {
        uint32_t value = 0;
        reads++;
        if (stepping_at >= APERTURE)
            value = aperture[stepping_at / 4 % 2];
        else if (rtl.read(rtl.model, stepping_at, &value))
            fail("a read that is refused");
        memcpy(page + stepping_at, &value, 4);
    }
    registers[REG_EFL] |= TRAP_FLAG;
}

static void on_step(int number, siginfo_t* info, void* context) {
    (void)number, (void)info;
    ((ucontext_t*)context)->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
    if (stepping_writes) {
        uint32_t value;
        memcpy(&value, page + stepping_at, 4);
        writes++;
        if (stepping_at >= APERTURE)
            aperture[stepping_at / 4 % 2] = value & ~0xFFFu;
        else if (rtl.write(rtl.model, stepping_at, value))
            fail("a write that is refused");
    }
    mprotect(page, PAGE, PROT_NONE);
    stepping = 0;
}

void* mmap64(void* address, size_t bytes, int protection, int flags, int fd, off_t offset) {
    int registers = fd >= 0 && is_file(fd, "/dev/uio1");
    if (registers) protection = PROT_NONE, flags |= MAP_ANONYMOUS, fd = -1;
    void* mapped = (void*)syscall(SYS_mmap, address, bytes, protection, flags, fd, offset);
    if (registers) {
        page = mapped;
        struct sigaction action = {.sa_flags = SA_SIGINFO | SA_NODEFER, .sa_sigaction = on_touch};
        sigaction(SIGSEGV, &action, NULL);
        action.sa_sigaction = on_step;
        sigaction(SIGTRAP, &action, NULL);
    } else if (fd >= 0 && is_file(fd, "/dev/fractrain-buffer")) {
        cache = mapped;
        cache_bytes = bytes;
    }
    return mapped;
}

void* mmap(void* address, size_t bytes, int protection, int flags, int fd, off_t offset) {
    return mmap64(address, bytes, protection, flags, fd, offset);
}

ssize_t write(int fd, const void* data, size_t bytes) {
    if (page && bytes == 4 && is_file(fd, "/dev/uio1")) {
        if (*(const uint32_t*)data != 1) fail("a word that is not 1 masks the interrupt");
        unmasked = 1;
        return 4;
    }
    return syscall(SYS_write, fd, data, bytes);
}

int select(int n, fd_set* reading, fd_set* writing, fd_set* failing, struct timeval* patience) {
    for (int fd = 0; page && reading && fd < n; fd++)
        if (FD_ISSET(fd, reading) && is_file(fd, "/dev/uio1")) {
            if (memcmp(aperture, wanted, sizeof wanted)) fail("the aperture is not the buffer");
            if (!unmasked) fail("the kernel would keep the interrupt back");
            for (int chunk = 0; !rtl.interrupt(rtl.model); chunk++) {
                if (chunk == PATIENCE) {
                    FD_ZERO(reading);
                    return 0;
                }
                rtl.run(rtl.model, CYCLES);
            }
            unmasked = 0;
            return 1;
        }
    return syscall(SYS_select, n, reading, writing, failing, patience);
}

ssize_t read(int fd, void* data, size_t bytes) {
    if (page && bytes == 4 && is_file(fd, "/dev/uio1")) return memset(data, 0, 4), 4;
    return syscall(SYS_read, fd, data, bytes);
}

ssize_t pwrite64(int fd, const void* data, size_t bytes, off_t offset) {
    int for_cpu = is_file(fd, "/sync_for_cpu");
    if (!for_cpu && !is_file(fd, "/sync_for_device")) return syscall(SYS_pwrite64, fd, data, bytes, offset);
    char text[32] = {0};
    memcpy(text, data, bytes < 31 ? bytes : 31);
    uint64_t command = strtoull(text, NULL, 16);
    size_t first = command >> 32, end = first + (command & 0xFFFFFFF0u);
    if (!(command & 1) || (command >> 2 & 3) != (for_cpu ? 2u : 1u)) fail("a sync that does nothing");
    syncs[for_cpu]++;
    first -= first % LINE, end += -end % LINE;
    if (end > cache_bytes) fail("a sync beyond the buffer");
    if (lose[for_cpu]) return bytes;
    if (for_cpu)
        memcpy(cache + first, rtl.memory + first, end - first);
    else
        memcpy(rtl.memory + first, cache + first, end - first);
    return bytes;
}

ssize_t pwrite(int fd, const void* data, size_t bytes, off_t offset) { return pwrite64(fd, data, bytes, offset); }

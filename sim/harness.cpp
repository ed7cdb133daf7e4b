// The compiled accelerator and its DDR as a shared library: registers are read and written and programs run through
// the functions at the end, so that a simulated cycle never costs a call from Python.

#include <sys/mman.h>

#include <memory>

#include "Vharness.h"
#include "ddr.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

// Cycles after which a register access is given up.
constexpr int CSR_TIMEOUT = 10000;
constexpr int RESET_CYCLES = 4;

// The signals of manager `n`: from its port of the memory to the model, and as they are before a rising edge.
#define DRIVE(n, port)                                                                                         \
    top.ar_ready##n = port.ar_ready, top.aw_ready##n = port.aw_ready, top.w_ready##n = port.w_ready,           \
    top.r_valid##n = port.r_valid, top.r_data##n = port.r_data, top.r_resp##n = port.r_resp,                   \
    top.r_last##n = port.r_last, top.b_valid##n = port.b_valid, top.b_resp##n = port.b_resp
#define SAMPLE(n)                                                                                              \
    {{bool(top.ar_valid##n), top.ar_addr##n, top.ar_len##n},                                                   \
     {bool(top.aw_valid##n), top.aw_addr##n, top.aw_len##n},                                                   \
     {bool(top.w_valid##n), top.w_data##n, top.w_strb##n, bool(top.w_last##n)},                                \
     bool(top.r_ready##n),                                                                                     \
     bool(top.b_ready##n)}
#ifdef MANAGER1
constexpr int MANAGERS = 2;
#else
constexpr int MANAGERS = 1;
#endif

class Harness {
  public:
    explicit Harness(const ddr::Settings& settings)
        : bytes(settings.bytes), memory(static_cast<uint8_t*>(map(settings.bytes))), model(settings, memory), top(&context) {
        context.traceEverOn(VM_TRACE);
        reset();
    }
    ~Harness() {
        trace(nullptr);
        top.final();
        munmap(memory, bytes);
    }

    void reset() {
        top.csr_ar_valid = top.csr_r_ready = top.csr_aw_valid = top.csr_w_valid = top.csr_b_ready = 0;
        model.reset();
        top.rst = 1;
        for (int i = 0; i < RESET_CYCLES; ++i) edge(), model.reset();
        top.rst = 0;
    }

    // Runs until the interrupt is high, and says for how many cycles.
    uint64_t run(uint64_t most) {
        const uint64_t start = cycle;
        while (!top.irq && cycle - start < most && model.violation().empty()) edge();
        return cycle - start;
    }

    // Lets time pass, whatever the interrupt says.
    void idle(uint64_t cycles) {
        while (cycles--) edge();
    }

    bool irq() const { return top.irq; }

    bool write(uint32_t addr, uint32_t value, uint32_t& resp) {
        top.csr_aw_addr = addr, top.csr_w_data = value;
        top.csr_aw_valid = top.csr_w_valid = top.csr_b_ready = 1;
        bool done = false;
        for (int i = 0; i < CSR_TIMEOUT && !done; ++i) {
            settle();
            const bool aw = top.csr_aw_valid && top.csr_aw_ready, w = top.csr_w_valid && top.csr_w_ready;
            done = top.csr_b_valid, resp = top.csr_b_resp;
            finish();
            if (aw) top.csr_aw_valid = 0;
            if (w) top.csr_w_valid = 0;
        }
        top.csr_aw_valid = top.csr_w_valid = top.csr_b_ready = 0;
        return done;
    }

    bool read(uint32_t addr, uint32_t& value, uint32_t& resp) {
        top.csr_ar_addr = addr;
        top.csr_ar_valid = top.csr_r_ready = 1;
        bool done = false;
        for (int i = 0; i < CSR_TIMEOUT && !done; ++i) {
            settle();
            const bool ar = top.csr_ar_valid && top.csr_ar_ready;
            done = top.csr_r_valid, value = top.csr_r_data, resp = top.csr_r_resp;
            finish();
            if (ar) top.csr_ar_valid = 0;
        }
        top.csr_ar_valid = top.csr_r_ready = 0;
        return done;
    }

    // Starts a waveform, or ends it if `path` is null. False if the model was compiled without tracing.
    bool trace(const char* path) {
#if VM_TRACE
        if (waves) waves->close(), waves.reset();
        if (!path) return true;
        waves = std::make_unique<VerilatedVcdC>();
        top.trace(waves.get(), 99);
        waves->open(path);
        return waves->isOpen();
#else
        return !path;
#endif
    }

    const uint64_t bytes;
    uint8_t* const memory;
    uint64_t cycle = 0;
    ddr::Memory<MANAGERS> model;

  private:
    static void* map(uint64_t size) {
        void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) throw std::bad_alloc();
        return p;
    }

    // The low half of the clock: new inputs reach the outputs that depend on them in the same cycle.
    void settle() {
        DRIVE(0, model.port(0));
#ifdef MANAGER1
        DRIVE(1, model.port(1));
#endif
        top.clk = 0;
        top.eval();
        dump(0);
    }

    // The rising edge: the accelerator and the memory both see what was there before it.
    void finish() {
        const ddr::Sample samples[MANAGERS] = {
            SAMPLE(0),
#ifdef MANAGER1
            SAMPLE(1),
#endif
        };
        top.clk = 1;
        top.eval();
        dump(1);
        model.edge(samples, cycle++);
    }

    void edge() { settle(), finish(); }

    void dump(int half) {
#if VM_TRACE
        if (waves) waves->dump(2 * cycle + half);
#else
        (void)half;
#endif
    }

    VerilatedContext context;
    Vharness top;
#if VM_TRACE
    std::unique_ptr<VerilatedVcdC> waves;
#endif
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Harness* harness_create(const ddr::Settings* settings) {
    try {
        return new Harness(*settings);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
EXPORT void harness_destroy(Harness* h) { delete h; }
EXPORT void harness_reset(Harness* h) { h->reset(); }
EXPORT uint8_t* harness_memory(Harness* h) { return h->memory; }
EXPORT uint64_t harness_cycles(Harness* h) { return h->cycle; }
EXPORT uint64_t harness_run(Harness* h, uint64_t most) { return h->run(most); }
// The AXI response, or -1 if there was none.
EXPORT int harness_csr_write(Harness* h, uint32_t addr, uint32_t value) {
    uint32_t resp = 0;
    return h->write(addr, value, resp) ? int(resp) : -1;
}
EXPORT int harness_csr_read(Harness* h, uint32_t addr, uint32_t* value) {
    uint32_t resp = 0;
    return h->read(addr, *value, resp) ? int(resp) : -1;
}
EXPORT void harness_fault(Harness* h, int write, uint32_t addr, uint32_t bytes, int resp) {
    h->model.fault(write, addr, bytes, uint8_t(resp));
}
EXPORT const char* harness_violation(Harness* h) { return h->model.violation().c_str(); }
EXPORT int harness_trace(Harness* h, const char* path) { return h->trace(path); }
EXPORT int harness_interrupt(Harness* h) { return h->irq(); }
EXPORT void harness_idle(Harness* h, uint64_t cycles) { h->idle(cycles); }

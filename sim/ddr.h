// DDR behind AXI4 ports: latency, limited bandwidth of each port and of all together, several bursts in flight, faults on
// demand, and a check of the managers' side of the protocol.
//
// The order of memory operations is the weakest that AXI allows: a read sees memory as it is when its address is
// accepted, a write changes memory when its response is given. A manager that reads before the response of the write
// it depends on gets old data here, as it may on a board.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

namespace ddr {

enum : uint8_t { OKAY = 0, SLVERR = 2, DECERR = 3 };

// What tests can choose. Latencies are in cycles; a channel moves `numerator` beats in `denominator` cycles at most, all
// channels of all ports together `shared_numerator` in `shared_denominator`.
struct Settings {
    uint64_t bytes;
    uint64_t seed;  // of the random stalls
    uint32_t read_latency, write_latency;
    uint32_t read_numerator, read_denominator;
    uint32_t write_numerator, write_denominator;
    uint32_t shared_numerator, shared_denominator;
    uint32_t outstanding;  // bursts accepted in each direction of a port
    uint32_t stall;        // chance of a random stall on each channel and cycle, in 1/256
    uint32_t turnaround, batch;  // cycles that are lost for each so many beats of both directions
    uint32_t refresh_interval, refresh;  // every so many cycles nothing moves for so many; 0: never
};

// One address or write channel as the manager drives it, remembered while it waits.
struct Address {
    bool valid = false;
    uint32_t addr = 0;
    uint8_t len = 0;
    bool operator==(const Address& o) const { return valid == o.valid && addr == o.addr && len == o.len; }
};
struct Write {
    bool valid = false;
    uint64_t data = 0;
    uint8_t strb = 0;
    bool last = false;
    bool operator==(const Write& o) const {
        return valid == o.valid && data == o.data && strb == o.strb && last == o.last;
    }
};

// The manager's outputs, sampled before a rising edge.
struct Sample {
    Address ar, aw;
    Write w;
    bool r_ready, b_ready;
};

// Beats that the memory may be behind its ports: what the FIFOs of a Zynq's HP port hold.
constexpr uint32_t FIFO = 128;

// Beats move while the credit, topped up every cycle, covers their price; that of so many beats is saved. Channels that
// share a rate may overdraw it by what they move in one cycle.
struct Rate {
    int64_t income, price, most, credit;
    Rate(uint32_t numerator, uint32_t denominator, uint32_t saved = 1)
        : income(numerator), price(denominator), most(saved * price + income), credit(saved * price) {}
    void tick() { credit = std::min(credit + income, most); }
    bool may_move() const { return credit >= price; }
    void move() { credit -= price; }
};

struct Fault {
    uint32_t addr, bytes;
    uint8_t resp;
};

// What the ports have in common.
struct Shared {
    const Settings set;
    uint8_t* const bytes;
    Rate rate;
    uint32_t moved[2];  // beats read and written since the memory has turned to the other direction and back
    std::deque<Fault> read_faults, write_faults;
    std::string violation;

    void move(bool write) {
        rate.move();
        ++moved[write];
        if (moved[0] < set.batch || moved[1] < set.batch) return;
        moved[0] = moved[1] = 0;
        rate.credit -= set.turnaround * rate.income;
    }

    // Whether it refreshes.
    bool rests(uint64_t cycle) const { return set.refresh_interval && cycle % set.refresh_interval < set.refresh; }
};

class Port {
  public:
    // The memory's outputs, valid until the next rising edge.
    bool ar_ready = false, aw_ready = false, w_ready = false;
    bool r_valid = false, r_last = false, b_valid = false;
    uint64_t r_data = 0;
    uint8_t r_resp = OKAY, b_resp = OKAY;
    int moved = 0;  // beats at the last edge

    Port(Shared& shared, int number)
        : shared_(shared), set_(shared.set), number_(number), random_((set_.seed + number * 0x9e3779b9ull) * 2 + 1),
          read_(set_.read_numerator, set_.read_denominator), write_(set_.write_numerator, set_.write_denominator) {}

    void reset() {
        ar_ready = aw_ready = w_ready = r_valid = b_valid = false;
        reads_.clear(), write_bursts_.clear(), beats_.clear(), whole_bursts_ = 0;
        before_ = Sample();
    }

    // One rising edge.
    void edge(const Sample& now, uint64_t cycle) {
        moved = 0;
        check(now, cycle);
        accept(now, cycle);
        answer_reads(now, cycle);
        answer_writes(now, cycle);
        ar_ready = reads_.size() < set_.outstanding && !stalled();
        aw_ready = write_bursts_.size() < set_.outstanding && !stalled();
        w_ready = whole_bursts_ < set_.outstanding && write_.may_move() && shared_.rate.may_move() && !stalled();
    }

  private:
    struct Beat {
        uint64_t data;
        uint8_t strb;
        bool last;
    };
    struct Read {
        uint64_t due;
        uint8_t resp;
        std::vector<uint64_t> data;
        size_t next = 0;
    };
    struct Burst {
        uint64_t due;
        uint32_t addr;
        uint32_t beats;
    };

    bool stalled() {
        if (!set_.stall) return false;
        random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
        return (random_ >> 32 & 255) < set_.stall;
    }

    void move(Rate& rate, bool write) { rate.move(), shared_.move(write), ++moved; }

    void violate(uint64_t cycle, const std::string& what) {
        if (!shared_.violation.empty()) return;
        shared_.violation = "port " + std::to_string(number_) + ", cycle " + std::to_string(cycle) + ": " + what;
    }

    void check_address(const Address& a, const Address& before, const char* name, uint64_t cycle) {
        if (before.valid && !(a == before)) violate(cycle, std::string(name) + " changed while it waited for ready");
        if (!a.valid || before.valid) return;
        char where[64];
        snprintf(where, sizeof where, "%s burst of %d beats at 0x%08x ", name, a.len + 1, a.addr);
        if (a.addr % 8) violate(cycle, std::string(where) + "is not aligned to 8 bytes");
        if (a.addr % 4096 + 8 * (a.len + 1) > 4096) violate(cycle, std::string(where) + "crosses a 4 KiB boundary");
    }

    void check(const Sample& now, uint64_t cycle) {
        check_address(now.ar, before_.ar, "AR", cycle);
        check_address(now.aw, before_.aw, "AW", cycle);
        if (before_.w.valid && !(now.w == before_.w)) violate(cycle, "W changed while it waited for ready");
        before_ = now;
        // What is accepted at this edge does not wait.
        before_.ar.valid &= !ar_ready, before_.aw.valid &= !aw_ready, before_.w.valid &= !w_ready;
    }

    static uint8_t take_fault(std::deque<Fault>& faults, uint32_t addr, uint32_t bytes) {
        for (auto f = faults.begin(); f != faults.end(); ++f)
            if (addr < uint64_t(f->addr) + f->bytes && f->addr < uint64_t(addr) + bytes) {
                uint8_t resp = f->resp;
                faults.erase(f);
                return resp;
            }
        return OKAY;
    }

    uint8_t response(std::deque<Fault>& faults, uint32_t addr, uint32_t beats) const {
        if (uint64_t(addr) + 8 * beats > set_.bytes) return DECERR;
        return faults.empty() ? uint8_t(OKAY) : take_fault(faults, addr, 8 * beats);
    }

    void accept(const Sample& now, uint64_t cycle) {
        if (now.ar.valid && ar_ready) {
            Read read{cycle + set_.read_latency, response(shared_.read_faults, now.ar.addr, now.ar.len + 1), {}};
            // Not zero, so that nobody takes the data of a failed read for good by chance.
            read.data.assign(now.ar.len + 1, 0xbadbadbadbadbadbull);
            if (read.resp == OKAY) memcpy(read.data.data(), shared_.bytes + now.ar.addr, 8 * read.data.size());
            reads_.push_back(std::move(read));
        }
        if (now.aw.valid && aw_ready) write_bursts_.push_back({cycle + set_.write_latency, now.aw.addr, now.aw.len + 1u});
        if (now.w.valid && w_ready) {
            beats_.push_back({now.w.data, now.w.strb, now.w.last});
            move(write_, true);
            if (now.w.last) {
                ++whole_bursts_;
                last_beat_due_.push_back(cycle + set_.write_latency);
            }
        }
        write_.tick();
    }

    void answer_reads(const Sample& now, uint64_t cycle) {
        if (r_valid && now.r_ready) r_valid = false;
        read_.tick();
        if (r_valid || reads_.empty() || cycle < reads_.front().due || !read_.may_move() || !shared_.rate.may_move() ||
            stalled())
            return;
        Read& read = reads_.front();
        r_valid = true, r_resp = read.resp, r_data = read.data[read.next++];
        r_last = read.next == read.data.size();
        move(read_, false);
        if (r_last) reads_.pop_front();
    }

    void answer_writes(const Sample& now, uint64_t cycle) {
        if (b_valid && now.b_ready) b_valid = false;
        if (b_valid || write_bursts_.empty() || !whole_bursts_) return;
        const Burst burst = write_bursts_.front();
        if (cycle < burst.due || cycle < last_beat_due_.front() || stalled()) return;
        b_valid = true, b_resp = response(shared_.write_faults, burst.addr, burst.beats);
        uint32_t beats = 0;
        for (bool last = false; !last; ++beats) {
            const Beat beat = beats_.front();
            beats_.pop_front();
            last = beat.last;
            if (b_resp != OKAY || beats >= burst.beats) continue;
            uint8_t* place = shared_.bytes + burst.addr + 8 * beats;
            if (beat.strb == 0xff) memcpy(place, &beat.data, 8);
            else
                for (int i = 0; i < 8; ++i)
                    if (beat.strb >> i & 1) place[i] = uint8_t(beat.data >> 8 * i);
        }
        if (beats != burst.beats)
            violate(cycle, "WLAST after " + std::to_string(beats) + " beats of a burst of " + std::to_string(burst.beats));
        write_bursts_.pop_front(), last_beat_due_.pop_front(), --whole_bursts_;
    }

    Shared& shared_;
    const Settings& set_;
    const int number_;
    uint64_t random_;
    Rate read_, write_;
    Sample before_ = Sample();
    std::deque<Read> reads_;
    std::deque<Burst> write_bursts_;
    std::deque<Beat> beats_;
    std::deque<uint64_t> last_beat_due_;
    uint32_t whole_bursts_ = 0;
};

// A memory with `PORTS` ports.
template <int PORTS>
class Memory {
  public:
    Memory(const Settings& settings, uint8_t* bytes)
        : shared_{settings, bytes, Rate(settings.shared_numerator, settings.shared_denominator, FIFO), {}, {}, {}, {}} {
        for (int i = 0; i < PORTS; ++i) ports_.emplace_back(shared_, i);
    }

    Port& port(int number) { return ports_[number]; }

    const std::string& violation() const { return shared_.violation; }

    // The next burst of this direction that touches the range is answered with `resp`, and does nothing.
    void fault(bool write, uint32_t addr, uint32_t bytes, uint8_t resp) {
        (write ? shared_.write_faults : shared_.read_faults).push_back({addr, bytes, resp});
    }

    void reset() {
        for (Port& port : ports_) port.reset();
    }

    // One rising edge. The port that has moved the fewest beats in a cycle goes first in the next.
    void edge(const Sample (&now)[PORTS], uint64_t cycle) {
        if (!shared_.rests(cycle)) shared_.rate.tick();
        const int first = first_;
        for (int i = 0; i < PORTS; ++i) {
            const int number = (first + i) % PORTS;
            ports_[number].edge(now[number], cycle);
            if (ports_[number].moved < ports_[first_].moved) first_ = number;
        }
    }

  private:
    Shared shared_;
    std::deque<Port> ports_;
    int first_ = 0;
};

}  // namespace ddr

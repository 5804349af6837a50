// SPDX-License-Identifier: MIT
// A handler's replies: whatever it returns, and whatever it completes how often, each request ends
// once and with a result that the kernel can take.
#include <host.h>

#include <array>

#include "input.h"
#include "served_queue.h"

namespace {

using fuzz::ServedQueue;

enum class Reply : uint8_t {
  kReturn,         // any number
  kPart,           // some of the bytes
  kWhole,          //
  kComplete,       // any number, before it returns UBLK_PENDING
  kCompleteTwice,  //
  kAndReturn,      // completes, and then returns any number
  kCompleteOld,    // a request that is over, too
  kLast = kCompleteOld
};

struct Replies {
  fuzz::Input& input;
  std::array<uint64_t, 4> old{};  // ids
  unsigned submissions = 0;

  int reply(ublk_request& request) {
    const uint64_t id = request.id;
    const uint64_t former = old[submissions % old.size()];
    old[submissions++ % old.size()] = id;
    const int whole = static_cast<int>(request.length);
    // A rest that gets shorter and shorter would take for ever.
    if (input.left() == 0 || submissions > 200) return whole;
    const auto kind =
        static_cast<Reply>(input.take<uint8_t>() % (static_cast<unsigned>(Reply::kLast) + 1));
    const auto number = input.take<int32_t>();
    const auto complete = ublk_runner::handler_host().complete;
    switch (kind) {
      case Reply::kReturn:
        return number == UBLK_PENDING ? whole : number;
      case Reply::kPart:
        return whole == 0 ? 0
                          : 1 + static_cast<int>(static_cast<uint32_t>(number) % request.length);
      case Reply::kWhole:
        return whole;
      case Reply::kComplete:
        fuzz::require(complete(id, number) == 0, "the first completion is taken");
        return UBLK_PENDING;
      case Reply::kCompleteTwice:
        complete(id, number);
        fuzz::require(complete(id, whole) == -EALREADY, "the second one is not");
        return UBLK_PENDING;
      case Reply::kAndReturn:
        complete(id, number);
        return number;
      case Reply::kCompleteOld:
        if (former != 0)
          fuzz::require(complete(former, number) == -EALREADY, "what is over stays so");
        return whole;
    }
    return whole;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto& queue = *new ServedQueue();
  fuzz::Input input(data, size);
  Replies replies{input};
  queue.set_handler([&](ublk_request& request) { return replies.reply(request); });
  constexpr uint8_t kOps[] = {UBLK_OP_READ, UBLK_OP_WRITE, UBLK_OP_FLUSH, UBLK_OP_DISCARD,
                              UBLK_OP_WRITE_ZEROES};
  for (int i = 0; i < 8 && input.left() != 0; ++i) {
    const auto choice = input.take<uint8_t>();
    const auto tag = static_cast<uint16_t>(choice % ServedQueue::kDepth);
    const fuzz::abi::IoDesc request = {
        .op_flags = kOps[choice / ServedQueue::kDepth % std::size(kOps)],
        .nr_sectors = ServedQueue::kBlockSectors * (1u + choice / 64u),
        .start_sector = 0,
        .addr = 0};
    fuzz::require(fuzz::is_result(request, queue.run(tag, request)), "the result is one");
    fuzz::require(!queue.commits_more(tag), "a request ends once");
  }
  return 0;
}

// SPDX-License-Identifier: MIT
#include "statistics_variant.h"

#include <algorithm>
#include <string>
#include <string_view>

namespace ublk_runner {

namespace {

constexpr char kStagesType[] = "a{s(tta(tt))}";

void add(GVariantBuilder& dictionary, const char* key, GVariant* value) {
  g_variant_builder_add(&dictionary, "{sv}", key, value);
}

void add(GVariantBuilder& dictionary, const char* key, uint64_t value) {
  add(dictionary, key, g_variant_new_uint64(value));
}

// Sum, maximum, and the buckets that are not empty: their end and their count.
GVariant* to_variant(const LatencyHistogram& histogram) {
  GVariantBuilder buckets;
  g_variant_builder_init(&buckets, G_VARIANT_TYPE("a(tt)"));
  for (size_t i = 0; i < histogram.buckets.size(); ++i)
    if (histogram.buckets[i] != 0)
      g_variant_builder_add(&buckets, "(tt)", guint64{LatencyBuckets::end(i)},
                            guint64{histogram.buckets[i]});
  return g_variant_new("(tta(tt))", guint64{histogram.sum}, guint64{histogram.max}, &buckets);
}

GVariant* to_variant(const OperationStatistics& operation) {
  GVariantBuilder stages;
  g_variant_builder_init(&stages, G_VARIANT_TYPE(kStagesType));
  for (size_t i = 0; i < operation.stages.size(); ++i)
    g_variant_builder_add(&stages, "{s@(tta(tt))}", kStageNames[i],
                          to_variant(operation.stages[i]));
  GVariantBuilder dictionary;
  g_variant_builder_init(&dictionary, G_VARIANT_TYPE_VARDICT);
  add(dictionary, "Requests", operation.requests);
  add(dictionary, "Errors", operation.errors);
  add(dictionary, "Bytes", operation.bytes);
  add(dictionary, "InFlight", operation.in_flight);
  add(dictionary, "Stages", g_variant_builder_end(&stages));
  return g_variant_builder_end(&dictionary);
}

GVariant* to_variant(const SlowRequest& request) {
  GVariantBuilder stages;
  g_variant_builder_init(&stages, G_VARIANT_TYPE("a{st}"));
  for (size_t i = 0; i < request.stages.size(); ++i)
    g_variant_builder_add(&stages, "{st}", kStageNames[i], guint64{request.stages[i]});
  GVariantBuilder dictionary;
  g_variant_builder_init(&dictionary, G_VARIANT_TYPE_VARDICT);
  add(dictionary, "Operation", g_variant_new_string(kOperations[request.operation].name));
  add(dictionary, "Sector", request.sector);
  add(dictionary, "Length", g_variant_new_uint32(request.length));
  add(dictionary, "Result", g_variant_new_int32(request.result));
  add(dictionary, "Ended", request.ended);
  add(dictionary, "Queue", g_variant_new_uint32(request.queue));
  add(dictionary, "Tag", g_variant_new_uint32(request.tag));
  add(dictionary, "Stages", g_variant_builder_end(&stages));
  return g_variant_builder_end(&dictionary);
}

// ------------------------------------------------------------------- and back --

template <class Visit>
void for_each(GVariant* container, Visit visit) {
  for (size_t i = 0; i < g_variant_n_children(container); ++i)
    visit(Variant(g_variant_get_child_value(container, i)).get());
}

// The members of a dictionary of any kind, by their keys.
template <class Visit>
void for_each_member(GVariant* dictionary, Visit visit) {
  for_each(dictionary, [&](GVariant* entry) {
    const Variant key(g_variant_get_child_value(entry, 0));
    const Variant value(g_variant_get_child_value(entry, 1));
    visit(std::string_view(g_variant_get_string(key.get(), nullptr)), value.get());
  });
}

template <class Names>
size_t place_of(const Names& names, std::string_view name) {
  return static_cast<size_t>(std::find_if(names.begin(), names.end(),
                                          [&](const auto& known) {
                                            if constexpr (requires { known.name; })
                                              return name == known.name;
                                            else
                                              return name == known;
                                          }) -
                             names.begin());
}

Variant lookup(GVariant* dictionary, const char* key, const char* type) {
  return Variant(g_variant_lookup_value(dictionary, key, G_VARIANT_TYPE(type)));
}

uint64_t number(GVariant* dictionary, const char* key) {
  const Variant value = lookup(dictionary, key, "t");
  return value == nullptr ? 0 : g_variant_get_uint64(value.get());
}

uint32_t small_number(GVariant* dictionary, const char* key) {
  const Variant value = lookup(dictionary, key, "u");
  return value == nullptr ? 0 : g_variant_get_uint32(value.get());
}

LatencyHistogram histogram_from(GVariant* value) {
  LatencyHistogram histogram;
  guint64 sum = 0;
  guint64 max = 0;
  GVariant* buckets = nullptr;
  g_variant_get(value, "(tt@a(tt))", &sum, &max, &buckets);
  const Variant owned(buckets);
  histogram.sum = sum;
  histogram.max = max;
  for_each(buckets, [&](GVariant* bucket) {
    guint64 end = 0;
    guint64 count = 0;
    g_variant_get(bucket, "(tt)", &end, &count);
    if (end != 0) histogram.buckets[LatencyBuckets::of(end - 1)] += count;
  });
  return histogram;
}

OperationStatistics operation_from(GVariant* dictionary) {
  OperationStatistics operation;
  operation.requests = number(dictionary, "Requests");
  operation.errors = number(dictionary, "Errors");
  operation.bytes = number(dictionary, "Bytes");
  operation.in_flight = number(dictionary, "InFlight");
  const Variant stages = lookup(dictionary, "Stages", kStagesType);
  if (stages == nullptr) return operation;
  for_each_member(stages.get(), [&](std::string_view name, GVariant* value) {
    const size_t stage = place_of(kStageNames, name);
    if (stage < operation.stages.size()) operation.stages[stage] = histogram_from(value);
  });
  return operation;
}

SlowRequest slow_request_from(GVariant* dictionary) {
  SlowRequest request;
  const Variant operation = lookup(dictionary, "Operation", "s");
  const size_t place = operation == nullptr
                           ? 0
                           : place_of(kOperations, g_variant_get_string(operation.get(), nullptr));
  request.operation = static_cast<uint8_t>(place < kOperations.size() ? place : 0);
  request.sector = number(dictionary, "Sector");
  request.length = small_number(dictionary, "Length");
  const Variant result = lookup(dictionary, "Result", "i");
  request.result = result == nullptr ? 0 : g_variant_get_int32(result.get());
  request.ended = number(dictionary, "Ended");
  request.queue = small_number(dictionary, "Queue");
  request.tag = small_number(dictionary, "Tag");
  const Variant stages = lookup(dictionary, "Stages", "a{st}");
  if (stages == nullptr) return request;
  for_each_member(stages.get(), [&](std::string_view name, GVariant* value) {
    const size_t stage = place_of(kStageNames, name);
    if (stage < request.stages.size()) request.stages[stage] = g_variant_get_uint64(value);
  });
  return request;
}

}  // namespace

GVariant* to_variant(const DeviceStatistics& statistics) {
  GVariantBuilder operations;
  g_variant_builder_init(&operations, G_VARIANT_TYPE("a{sa{sv}}"));
  for (size_t i = 0; i < kOperations.size(); ++i)
    g_variant_builder_add(&operations, "{s@a{sv}}", kOperations[i].name,
                          to_variant(statistics.operations[i]));
  GVariantBuilder slowest;
  g_variant_builder_init(&slowest, G_VARIANT_TYPE("aa{sv}"));
  for (const SlowRequest& request : statistics.slowest)
    g_variant_builder_add_value(&slowest, to_variant(request));
  GVariantBuilder dictionary;
  g_variant_builder_init(&dictionary, G_VARIANT_TYPE_VARDICT);
  add(dictionary, "Enabled", g_variant_new_boolean(statistics.enabled));
  add(dictionary, "Operations", g_variant_builder_end(&operations));
  add(dictionary, "Oldest", statistics.oldest);
  add(dictionary, "Slowest", g_variant_builder_end(&slowest));
  add(dictionary, "TimedOut", statistics.timed_out);
  add(dictionary, "TimeoutFailures", statistics.timeout_failures);
  add(dictionary, "LateAnswers", statistics.late_answers);
  add(dictionary, "SilentQueues", g_variant_new_uint32(statistics.silent_queues));
  return g_variant_builder_end(&dictionary);
}

DeviceStatistics statistics_from_variant(GVariant* dictionary) {
  DeviceStatistics statistics;
  const Variant enabled = lookup(dictionary, "Enabled", "b");
  statistics.enabled = enabled != nullptr && g_variant_get_boolean(enabled.get()) != FALSE;
  if (const Variant operations = lookup(dictionary, "Operations", "a{sa{sv}}"))
    for_each_member(operations.get(), [&](std::string_view name, GVariant* value) {
      const size_t place = place_of(kOperations, name);
      if (place < kOperations.size()) statistics.operations[place] = operation_from(value);
    });
  statistics.oldest = number(dictionary, "Oldest");
  if (const Variant slowest = lookup(dictionary, "Slowest", "aa{sv}"))
    for_each(slowest.get(),
             [&](GVariant* value) { statistics.slowest.push_back(slow_request_from(value)); });
  statistics.timed_out = number(dictionary, "TimedOut");
  statistics.timeout_failures = number(dictionary, "TimeoutFailures");
  statistics.late_answers = number(dictionary, "LateAnswers");
  statistics.silent_queues = small_number(dictionary, "SilentQueues");
  return statistics;
}

}  // namespace ublk_runner

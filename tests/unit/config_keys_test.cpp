// SPDX-License-Identifier: MIT
#include "config_keys.h"

#include <gtest/gtest.h>

#include <string>

#include "option_value.h"

namespace ublk_runner {
namespace {

template <class Target>
class ConfigKeys : public testing::Test {};
using Targets = testing::Types<Config, DeviceConfig>;
TYPED_TEST_SUITE(ConfigKeys, Targets);

// The structures are also filled in by hand, and then must mean the same.
TYPED_TEST(ConfigKeys, StructuresHaveTheDefaultsOfTheTables) {
  for (const Key<TypeParam>& key : keys_of<TypeParam>()) {
    if (key.option.default_value == nullptr) continue;
    const std::string text = key.option.default_value;
    TypeParam said;
    key.set(said, parse_option_value(key.option, text));
    EXPECT_TRUE(key.is_same(said, TypeParam())) << key.option.name;
  }
}

}  // namespace
}  // namespace ublk_runner

// SPDX-License-Identifier: MIT
//
// What handler.h says of a handler's table is checked before the handler is used.
#include "handler_table.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ublk_runner {
namespace {

ublk_option good_option() {
  ublk_option option{};
  option.name = "size";
  option.type = UBLK_OPTION_SIZE;
  option.help = "Size.";
  return option;
}

// A sound table with two options, for a test to spoil.
struct Table {
  Table() {
    options[1].name = "cache";
    options[1].type = UBLK_OPTION_CHOICE;
    options[1].choices = "none|all";
    handler.abi_version = UBLK_HANDLER_ABI_VERSION;
    handler.struct_size = sizeof(handler);
    handler.name = "test";
    handler.summary = "for tests";
    handler.options = options.data();
    handler.nr_options = 2;
    handler.option_size = sizeof(ublk_option);
    handler.model = UBLK_MODEL_RING;
    handler.open = [](const ublk_open_args*, void**) { return 0; };
    handler.close = [](void*) {};
    handler.geometry = [](void*, ublk_geometry*) { return 0; };
    handler.submit = [](void*, ublk_queue*, ublk_request*) { return 0; };
  }

  std::string error() const {
    try {
      std::vector<ublk_option> copies;
      check_handler_table(copy_handler_table(&handler, copies), "test");
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "no error";
  }

  std::vector<ublk_option> options{2, good_option()};
  ublk_handler handler{};
};

TEST(HandlerTable, SoundOneIsCopied) {
  Table table;
  EXPECT_EQ(table.error(), "no error");
  std::vector<ublk_option> options;
  const ublk_handler copy = copy_handler_table(&table.handler, options);
  EXPECT_EQ(copy.options, options.data());
  EXPECT_STREQ(copy.options[1].choices, "none|all");
  EXPECT_EQ(copy.submit, table.handler.submit);
}

TEST(HandlerTable, NothingIsReadBehindTheStructSize) {
  Table table;
  table.handler.struct_size = offsetof(ublk_handler, model);
  std::vector<ublk_option> options;
  const ublk_handler copy = copy_handler_table(&table.handler, options);
  EXPECT_STREQ(copy.name, "test");
  EXPECT_EQ(copy.nr_options, 2u);
  EXPECT_EQ(copy.model, 0u);
  EXPECT_EQ(copy.open, nullptr);
  EXPECT_EQ(copy.submit, nullptr);
  EXPECT_EQ(copy.struct_size, sizeof(ublk_handler));
}

TEST(HandlerTable, LargerOptionsAreCutToTheKnownFields) {
  struct LaterOption {
    ublk_option today;
    const char* tomorrow;
  };
  const LaterOption later[] = {{good_option(), "x"}, {good_option(), "y"}};
  Table table;
  table.handler.options = &later[0].today;
  table.handler.option_size = sizeof(LaterOption);
  std::vector<ublk_option> options;
  const ublk_handler copy = copy_handler_table(&table.handler, options);
  EXPECT_STREQ(copy.options[1].name, "size");
  EXPECT_EQ(copy.option_size, sizeof(ublk_option));
}

TEST(HandlerTable, SummaryIsNeverNull) {
  Table table;
  table.handler.summary = nullptr;
  std::vector<ublk_option> options;
  EXPECT_STREQ(copy_handler_table(&table.handler, options).summary, "");
}

struct BadTable {
  const char* name;
  std::function<void(Table&)> spoil;
  std::string error;

  friend std::ostream& operator<<(std::ostream& out, const BadTable& bad) {
    return out << bad.name;
  }
};

class BadTableTest : public testing::TestWithParam<BadTable> {};

TEST_P(BadTableTest, IsRefused) {
  Table table;
  GetParam().spoil(table);
  EXPECT_EQ(table.error(), GetParam().error);
}

std::string malformed(const std::string& text) { return "malformed handler: " + text; }
std::string size_option(const std::string& text) { return malformed("option \"size\": " + text); }

const BadTable kBadTables[] = {
    {"version_0", [](Table& t) { t.handler.abi_version = 0; }, malformed("ABI version 0")},
    {"version_2", [](Table& t) { t.handler.abi_version = 2; },
     "made for version 2 of the handler ABI, this runner has version 1"},
    {"no_name", [](Table& t) { t.handler.name = nullptr; },
     "the handler in it is named \"\", expected \"test\""},
    {"other_name", [](Table& t) { t.handler.name = "te\nst"; },
     "the handler in it is named \"te\\nst\", expected \"test\""},
    {"no_open", [](Table& t) { t.handler.open = nullptr; }, malformed("it has no open")},
    {"no_close", [](Table& t) { t.handler.close = nullptr; }, malformed("it has no close")},
    {"no_geometry", [](Table& t) { t.handler.geometry = nullptr; },
     malformed("it has no geometry")},
    {"no_submit", [](Table& t) { t.handler.submit = nullptr; }, malformed("it has no submit")},
    {"model_0", [](Table& t) { t.handler.model = 0; }, malformed("unknown model 0")},
    {"model_4", [](Table& t) { t.handler.model = 4; }, malformed("unknown model 4")},
    {"flags", [](Table& t) { t.handler.flags = 2; }, malformed("unknown flags")},
    {"scratch", [](Table& t) { t.handler.request_private_size = 65537; },
     malformed("request_private_size is 65537, expected at most 65536")},
    {"no_options", [](Table& t) { t.handler.options = nullptr; },
     malformed("2 options and no table of them")},
    {"too_many_options", [](Table& t) { t.handler.nr_options = 1u << 31; },
     malformed("2147483648 options")},
    {"option_size_0", [](Table& t) { t.handler.option_size = 0; }, malformed("option_size is 0")},
    {"option_size_odd", [](Table& t) { t.handler.option_size = sizeof(ublk_option) + 4; },
     malformed("option_size is " + std::to_string(sizeof(ublk_option) + 4))},
    {"option_without_name", [](Table& t) { t.options[0].name = nullptr; },
     malformed("the name of an option is not of lower-case letters, digits and '_'")},
    {"option_name_empty", [](Table& t) { t.options[0].name = ""; },
     malformed("the name of an option is not of lower-case letters, digits and '_': \"\"")},
    {"option_name_case", [](Table& t) { t.options[0].name = "Size"; },
     malformed("the name of an option is not of lower-case letters, digits and '_': \"Size\"")},
    {"option_name_dash", [](Table& t) { t.options[0].name = "a-b"; },
     malformed("the name of an option is not of lower-case letters, digits and '_': \"a-b\"")},
    {"option_twice", [](Table& t) { t.options[1].name = "size"; },
     malformed("two options \"size\"")},
    {"option_type_0", [](Table& t) { t.options[0].type = 0; }, size_option("unknown type 0")},
    {"option_type_7", [](Table& t) { t.options[0].type = 7; }, size_option("unknown type 7")},
    {"option_flags", [](Table& t) { t.options[0].flags = 4; }, size_option("unknown flags")},
    {"option_range",
     [](Table& t) {
       t.options[0].minimum = 2;
       t.options[0].maximum = 1;
     },
     size_option("its minimum is above its maximum")},
    {"option_default_of_another_type", [](Table& t) { t.options[0].default_value = "big"; },
     size_option("its default: expected a size in bytes, such as 4096, 512K or 20G, not \"big\"")},
    {"option_default_out_of_range",
     [](Table& t) {
       t.options[0].default_value = "1";
       t.options[0].minimum = 2;
     },
     size_option("its default: expected a size of at least 2, not \"1\"")},
    {"choices_missing", [](Table& t) { t.options[1].choices = nullptr; },
     malformed("option \"cache\": its choices are not different words separated by '|'")},
    {"choices_twice", [](Table& t) { t.options[1].choices = "a|a"; },
     malformed("option \"cache\": its choices are not different words separated by '|'")},
    {"choices_empty_word", [](Table& t) { t.options[1].choices = "a||b"; },
     malformed("option \"cache\": its choices are not different words separated by '|'")},
};

INSTANTIATE_TEST_SUITE_P(All, BadTableTest, testing::ValuesIn(kBadTables),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(HandlerTable, NamesOfTheRunnerAreReserved) {
  for (const char* name : {"handler", "queues", "queue_depth", "max_io_size", "read_only",
                           "workers", "buffer", "zero_copy", "batch_io", "recovery",
                           "recovery_timeout", "io_timeout", "ublk_", "ublk_anything"}) {
    Table table;
    table.options[0].name = name;
    EXPECT_EQ(table.error(), malformed("option \"" + std::string(name) +
                                       "\": the name is reserved for the runner"));
  }
  for (const char* name : {"ublk", "worker", "buffers", "handlers", "queue"}) {
    Table table;
    table.options[0].name = name;
    EXPECT_EQ(table.error(), "no error") << name;
  }
}

}  // namespace
}  // namespace ublk_runner

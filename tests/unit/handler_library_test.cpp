// SPDX-License-Identifier: MIT
//
// Which files are handlers: good ones, old ones, and what is told of bad ones.
#include "handler_library.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include "test_data.h"

namespace ublk_runner {
namespace {

const std::string kDir = UBLK_TEST_FIXTURE_DIR;

std::string error_of(const std::string& dir, const std::string& name) {
  try {
    HandlerLibrary::load(dir, name);
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  return "no error";
}

// The error without the path, which it must begin with.
std::string cause_of(const std::string& name) {
  const std::string error = error_of(kDir, name);
  const std::string path = kDir + "/handler_" + name + ".so: ";
  EXPECT_TRUE(error.starts_with(path)) << error;
  return error.substr(std::min(path.size(), error.size()));
}

bool is_loaded(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (library != nullptr) dlclose(library);
  return library != nullptr;
}

TEST(HandlerLibrary, LoadsAGoodOne) {
  const auto library = HandlerLibrary::load(kDir, "good");
  const ublk_handler& handler = library->handler();
  EXPECT_EQ(library->path(), kDir + "/handler_good.so");
  EXPECT_STREQ(handler.name, "good");
  EXPECT_STREQ(handler.summary, "for tests");
  EXPECT_EQ(handler.version, nullptr);
  EXPECT_EQ(handler.struct_size, sizeof(ublk_handler));
  EXPECT_EQ(handler.option_size, sizeof(ublk_option));
  ASSERT_EQ(handler.nr_options, 2u);
  EXPECT_STREQ(handler.options[0].name, "size");
  EXPECT_STREQ(handler.options[1].name, "path");
  EXPECT_EQ(handler.submit(nullptr, nullptr, nullptr), -EIO);
}

TEST(HandlerLibrary, LoadsThoseOfThisProject) {
  for (const std::string name : {UBLK_TEST_HANDLERS})
    EXPECT_EQ(HandlerLibrary::load(UBLK_TEST_HANDLER_DIR, name)->handler().name, name);
}

TEST(HandlerLibrary, IsUnloadedWhenTheLastOwnerGoes) {
  auto first = HandlerLibrary::load(kDir, "good");
  auto second = HandlerLibrary::load(kDir, "good");
  const std::string path = first->path();
  first.reset();
  EXPECT_TRUE(is_loaded(path));
  second.reset();
  EXPECT_FALSE(is_loaded(path));
}

TEST(HandlerLibrary, IsUnloadedWhenItIsRefused) {
  cause_of("other_name");
  EXPECT_FALSE(is_loaded(kDir + "/handler_other_name.so"));
}

TEST(HandlerLibrary, SymbolsStayPrivate) {
  const auto library = HandlerLibrary::load(kDir, "good");
  EXPECT_EQ(dlsym(RTLD_DEFAULT, UBLK_HANDLER_ENTRY_NAME), nullptr);
}

TEST(HandlerLibrary, OptionsOfAnOlderHeaderHaveNoNewFields) {
  const auto library = HandlerLibrary::load(kDir, "old_option");
  const ublk_handler& handler = library->handler();
  ASSERT_EQ(handler.nr_options, 2u);
  EXPECT_STREQ(handler.options[0].name, "size");
  EXPECT_STREQ(handler.options[0].default_value, "1M");
  EXPECT_EQ(handler.options[0].minimum, 0u);
  EXPECT_STREQ(handler.options[0].help, "");
  EXPECT_STREQ(handler.options[1].name, "path");
  EXPECT_EQ(handler.options[1].flags, uint32_t{UBLK_OPTION_REQUIRED});
  EXPECT_EQ(handler.options[1].default_value, nullptr);
}

TEST(HandlerLibrary, FieldsOfANewerHeaderAreLeftOut) {
  const auto library = HandlerLibrary::load(kDir, "newer_header");
  EXPECT_EQ(library->handler().struct_size, sizeof(ublk_handler));
  EXPECT_NE(library->handler().submit, nullptr);
}

TEST(HandlerLibrary, NewerAbiIsRefusedWithBothVersions) {
  EXPECT_EQ(cause_of("newer_abi"),
            "made for version 7 of the handler ABI, this runner has version 1");
}

// What an older version of the structure did not have is not there, here the last callback.
TEST(HandlerLibrary, SmallerStructureIsFilledUp) {
  EXPECT_EQ(cause_of("smaller_struct"), "malformed handler: it has no submit");
}

TEST(HandlerLibrary, TinyStructureIsRefused) {
  EXPECT_EQ(cause_of("tiny_struct"), "malformed handler: struct_size is 8");
}

TEST(HandlerLibrary, NoSymbol) {
  EXPECT_EQ(cause_of("no_symbol"), "no handler: it has no symbol ublk_handler_entry");
}

TEST(HandlerLibrary, NoTable) { EXPECT_EQ(cause_of("null_table"), "malformed handler: no table"); }

TEST(HandlerLibrary, UndefinedSymbolIsFoundAtOnce) {
  EXPECT_EQ(cause_of("undefined_symbol"), "undefined symbol: no_library_has_this_function");
}

TEST(HandlerLibrary, NameOfTheTableMustBeThatOfTheFile) {
  EXPECT_EQ(cause_of("other_name"), "the handler in it is named \"good\", expected \"other_name\"");
}

TEST(HandlerLibrary, ReservedOption) {
  EXPECT_EQ(cause_of("reserved_option"),
            "malformed handler: option \"queue_depth\": the name is reserved for the runner");
}

TEST(HandlerLibrary, MissingFileNamesThoseThatAreThere) {
  const test::TempDir dir;
  EXPECT_EQ(error_of(dir.path(), "foo"),
            dir / "handler_foo.so" +
                ": No such file or directory; there is no handler in that directory");
  for (const char* name : {"handler_b.so", "handler_a.so", "handler_.so", "handler_c", "libd.so"})
    dir.make_file(name, 0);
  EXPECT_EQ(error_of(dir.path(), "foo"),
            dir / "handler_foo.so" + ": No such file or directory; expected a or b");
  EXPECT_EQ(error_of(dir / "none", "foo"),
            dir / "none/handler_foo.so" +
                ": No such file or directory; the handler directory can't be read: No such file "
                "or directory");
}

TEST(HandlerLibrary, NoElfFile) {
  const test::TempDir dir;
  dir.make_file("handler_empty.so", 0);
  EXPECT_EQ(error_of(dir.path(), "empty"), dir / "handler_empty.so" + ": file too short");
  std::ofstream(dir / "handler_text.so") << std::string(4096, 'x');
  EXPECT_EQ(error_of(dir.path(), "text"), dir / "handler_text.so" + ": invalid ELF header");
}

TEST(HandlerLibrary, DirectoryInPlaceOfTheFile) {
  const test::TempDir dir;
  std::filesystem::create_directory(dir / "handler_dir.so");
  EXPECT_EQ(error_of(dir.path(), "dir"), dir / "handler_dir.so" + ": no regular file");
}

TEST(HandlerLibrary, NameIsNoPath) {
  const test::TempDir dir;
  std::filesystem::copy_file(kDir + "/handler_good.so", dir / "handler_good.so");
  std::filesystem::create_directory(dir / "sub");
  std::filesystem::create_directory(dir / "sub/handler_x");
  for (const std::string name :
       {"", "../good", "x/../../handler_good", "/good", "Good", "good.so", "good ", "good\n", "9"})
    EXPECT_TRUE(error_of(dir / "sub", name).ends_with("\" is no name of a handler")) << name;
}

// The old one goes on with what it has; who loads from now on gets the new one.
TEST(HandlerLibrary, AReplacedFileIsLoadedAnew) {
  const test::TempDir dir;
  std::filesystem::copy_file(kDir + "/handler_good.so", dir / "handler_good.so");
  const auto old = HandlerLibrary::load(dir.path(), "good");
  const std::string summary = old->handler().summary;
  EXPECT_EQ(HandlerLibrary::load(dir.path(), "good")->handler().submit, old->handler().submit);
  std::filesystem::copy_file(kDir + "/handler_good_replaced.so", dir / "new");
  std::filesystem::rename(dir / "new", dir / "handler_good.so");
  const auto replaced = HandlerLibrary::load(dir.path(), "good");
  EXPECT_STREQ(replaced->handler().summary, "replaced");
  EXPECT_EQ(old->handler().summary, summary);
  EXPECT_EQ(replaced->path(), old->path());
  std::filesystem::copy_file(kDir + "/handler_good.so", dir / "new");
  std::filesystem::rename(dir / "new", dir / "handler_good.so");
  EXPECT_EQ(HandlerLibrary::load(dir.path(), "good")->handler().summary, summary);
  dir.make_file("new", 0);
  std::filesystem::rename(dir / "new", dir / "handler_good.so");
  EXPECT_EQ(error_of(dir.path(), "good"), dir / "handler_good.so" + ": file too short");
}

// A directory without a slash must not make the linker search its own.
TEST(HandlerLibrary, DirectoryIsTakenAsItIs) {
  const test::TempDir dir;
  std::filesystem::copy_file(kDir + "/handler_good.so", dir / "handler_good.so");
  const std::filesystem::path old = std::filesystem::current_path();
  std::filesystem::current_path(dir.path());
  EXPECT_EQ(HandlerLibrary::load(".", "good")->path(), "./handler_good.so");
  std::filesystem::current_path(old);
  EXPECT_TRUE(error_of("", "good").starts_with("/handler_good.so: No such file"));
}

}  // namespace
}  // namespace ublk_runner

// SPDX-License-Identifier: MIT
//
// Owners of what GLib counts or allocates.
#ifndef UBLK_RUNNER_GLIB_PTR_H
#define UBLK_RUNNER_GLIB_PTR_H

#include <gio/gio.h>

#include <memory>
#include <string>

namespace ublk_runner {

struct GlibDelete {
  void operator()(GVariant* variant) const { g_variant_unref(variant); }
  void operator()(char* text) const { g_free(text); }
  template <class Object>
  void operator()(Object* object) const {
    g_object_unref(object);
  }
};

// A reference to a GObject.
template <class Object>
using GlibRef = std::unique_ptr<Object, GlibDelete>;
using Variant = std::unique_ptr<GVariant, GlibDelete>;
using GlibText = std::unique_ptr<char, GlibDelete>;

// Takes a new, floating variant.
inline Variant own_variant(GVariant* variant) { return Variant(g_variant_ref_sink(variant)); }

// One more reference.
template <class Object>
GlibRef<Object> share(Object* object) {
  g_object_ref(object);
  return GlibRef<Object>(object);
}

// Where a call puts its error: call(..., &error).
class GlibError {
 public:
  GlibError() = default;
  GlibError(const GlibError&) = delete;
  GlibError& operator=(const GlibError&) = delete;
  ~GlibError() { g_clear_error(&error_); }

  GError** operator&() { return &error_; }
  explicit operator bool() const { return error_ != nullptr; }
  GError* get() const { return error_; }
  bool is(GQuark domain, int code) const { return g_error_matches(error_, domain, code) != FALSE; }
  std::string text() const { return error_ != nullptr ? error_->message : "unknown error"; }

 private:
  GError* error_ = nullptr;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_GLIB_PTR_H

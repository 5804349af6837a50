// SPDX-License-Identifier: MIT
//
// URIs of the nbd handler: what is in them, and what is said of those that are wrong.
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "uri.h"

namespace {

using nbd::parse_uri;
using nbd::Uri;

TEST(NbdUri, TcpHasAHostAPortAndAnExport) {
  const Uri uri = parse_uri("nbd://example.org:1234/disk/one");
  EXPECT_EQ(uri.transport, Uri::Transport::kTcp);
  EXPECT_FALSE(uri.tls);
  EXPECT_EQ(uri.host, "example.org");
  EXPECT_EQ(uri.port, "1234");
  EXPECT_EQ(uri.export_name, "disk/one");
}

TEST(NbdUri, WhatIsLeftOutHasADefault) {
  for (const char* text :
       {"nbd://localhost", "nbd://localhost/", "nbd:///", "nbd+tcp://localhost"}) {
    const Uri uri = parse_uri(text);
    EXPECT_EQ(uri.host, "localhost") << text;
    EXPECT_EQ(uri.port, "10809") << text;
    EXPECT_EQ(uri.export_name, "") << text;
  }
}

TEST(NbdUri, AddressesOfIpv6HaveBrackets) {
  EXPECT_EQ(parse_uri("nbd://[::1]:99/x").host, "::1");
  EXPECT_EQ(parse_uri("nbd://[::1]:99/x").port, "99");
  EXPECT_EQ(parse_uri("nbd://[fe80::1%25eth0]/x").host, "fe80::1%eth0");
}

TEST(NbdUri, UnixSocketsAreAParameter) {
  const Uri uri = parse_uri("nbd+unix:///a%20b?socket=/run/nbd%3f.sock");
  EXPECT_EQ(uri.transport, Uri::Transport::kUnix);
  EXPECT_EQ(uri.socket, "/run/nbd?.sock");
  EXPECT_EQ(uri.export_name, "a b");
}

TEST(NbdUri, VsockHasAContextId) {
  const Uri uri = parse_uri("nbd+vsock://2:77/x");
  EXPECT_EQ(uri.transport, Uri::Transport::kVsock);
  EXPECT_EQ(uri.cid, 2u);
  EXPECT_EQ(uri.vsock_port, 77u);
  EXPECT_EQ(parse_uri("nbd+vsock://2").vsock_port, 10809u);
}

TEST(NbdUri, TlsHasParameters) {
  const Uri uri = parse_uri(
      "nbds+unix://alice@/x?socket=/s&tls-psk-file=/k&tls-certificates=/c&tls-verify-peer=false");
  EXPECT_TRUE(uri.tls);
  EXPECT_EQ(uri.username, "alice");
  EXPECT_EQ(uri.psk_file, "/k");
  EXPECT_EQ(uri.certificates, "/c");
  EXPECT_FALSE(uri.verify_peer);
  EXPECT_TRUE(parse_uri("nbds://host/").verify_peer);
}

struct Wrong {
  const char* uri;
  const char* said;
};

class WrongNbdUri : public testing::TestWithParam<Wrong> {};

TEST_P(WrongNbdUri, IsRefusedWithAReason) {
  try {
    parse_uri(GetParam().uri);
    FAIL() << GetParam().uri;
  } catch (const std::invalid_argument& e) {
    EXPECT_NE(std::string(e.what()).find(GetParam().said), std::string::npos) << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, WrongNbdUri,
    testing::Values(Wrong{"disk", "expected nbd://"}, Wrong{"http://host/", "got \"http\""},
                    Wrong{"nbd+ssh://host/", "\"ssh\""}, Wrong{"nbd://host:x/", "the port"},
                    Wrong{"nbd://host:0/", "1 to 65535"}, Wrong{"nbd://host:70000/", "1 to 65535"},
                    Wrong{"nbd://[::1/", "expected ]"}, Wrong{"nbd://[::1]x/", "expected :PORT"},
                    Wrong{"nbd://host/%4", "hexadecimal"}, Wrong{"nbd://host/%00", "not 00"},
                    Wrong{"nbd+unix:///x", "?socket="}, Wrong{"nbd+unix:///?socket=s", "absolute"},
                    Wrong{"nbd+unix://host/?socket=/s", "no host"},
                    Wrong{"nbd://host/?socket=/s", "nbd+unix"}, Wrong{"nbd://host/?x=y", "\"x\""},
                    Wrong{"nbd://host/?tls-psk-file=/k", "need nbds"},
                    Wrong{"nbds://host/?tls-verify-peer=maybe", "true or false"},
                    Wrong{"nbd+vsock://x/", "context id"}, Wrong{"nbd://host/#x", "no #"}));

TEST(NbdUri, OnlyNamesAreToBeResolved) {
  for (const char* text : {"nbd://192.0.2.1/", "nbds://192.0.2.1:1234/x", "nbd://[2001:db8::1]/",
                           "nbd://[::1]:10809/x", "nbd+unix:///?socket=/s", "nbd+vsock://3/"})
    EXPECT_FALSE(nbd::parse_uri(text).has_name()) << text;
  for (const char* text : {"nbd://localhost/", "nbd:///x", "nbd://storage.example.org:1234/",
                           "nbd://192.0.2/", "nbd://[fe80::1%25eth0]/"})
    EXPECT_TRUE(nbd::parse_uri(text).has_name()) << text;
}

}  // namespace

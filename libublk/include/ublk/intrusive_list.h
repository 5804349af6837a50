// SPDX-License-Identifier: MIT
//
// A doubly linked list of nodes that belong to somebody else. Nothing is allocated; a node leaves
// its list without knowing which one it is in. For the library's own use.
#ifndef UBLK_INTRUSIVE_LIST_H
#define UBLK_INTRUSIVE_LIST_H

namespace ublk::internal {

// A base of the node. A node that can be in several lists at a time has a base for each, told apart
// by Tag.
template <class Tag>
struct ListLink {
  ListLink() = default;
  ListLink(const ListLink&) = delete;
  ListLink& operator=(const ListLink&) = delete;

  bool linked() const { return next != this; }
  void unlink() {
    previous->next = next;
    next->previous = previous;
    next = previous = this;
  }

  ListLink* next = this;
  ListLink* previous = this;
};

template <class Node, class Tag>
class List {
 public:
  bool empty() const { return !head_.linked(); }
  Node& front() { return static_cast<Node&>(*head_.next); }  // not of an empty list
  void push_back(ListLink<Tag>& link) {
    link.previous = head_.previous;
    link.next = &head_;
    head_.previous->next = &link;
    head_.previous = &link;
  }
  // Appends all nodes of another list, which is empty afterwards.
  void take_all(List& other) {
    while (!other.empty()) {
      ListLink<Tag>& link = *other.head_.next;
      link.unlink();
      push_back(link);
    }
  }

 private:
  ListLink<Tag> head_;
};

}  // namespace ublk::internal

#endif  // UBLK_INTRUSIVE_LIST_H

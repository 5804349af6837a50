// SPDX-License-Identifier: MIT
//
// A doubly linked list of nodes that belong to somebody else. Nothing is allocated; a node leaves
// its list without knowing which one it is in. For the library's own use.
#ifndef UBLK_INTRUSIVE_LIST_H
#define UBLK_INTRUSIVE_LIST_H

namespace ublk::internal {

// A member of the node, one for each list that it can be in at a time.
template <class Node>
class ListLink {
 public:
  explicit ListLink(Node* node) : node_(node) {}
  ListLink(const ListLink&) = delete;
  ListLink& operator=(const ListLink&) = delete;

  void unlink() {  // no-op if it is in no list
    previous_->next_ = next_;
    next_->previous_ = previous_;
    next_ = previous_ = this;
  }

 private:
  template <class>
  friend class List;
  Node* const node_;
  ListLink* next_ = this;
  ListLink* previous_ = this;
};

template <class Node>
class List {
 public:
  bool empty() const { return head_.next_ == &head_; }
  Node& front() const { return *head_.next_->node_; }  // not of an empty list
  void push_back(ListLink<Node>& link) {
    link.previous_ = head_.previous_;
    link.next_ = &head_;
    head_.previous_->next_ = &link;
    head_.previous_ = &link;
  }
  // Appends all nodes of another list, which is empty afterwards.
  void take_all(List& other) {
    while (!other.empty()) {
      ListLink<Node>& link = *other.head_.next_;
      link.unlink();
      push_back(link);
    }
  }

 private:
  ListLink<Node> head_{nullptr};
};

}  // namespace ublk::internal

#endif  // UBLK_INTRUSIVE_LIST_H

"""What callgrind counted, a thread at a time: instructions of the thread's own code and of what is
called from it."""

import re
from collections import Counter


class Profile:
    """Of one file that callgrind has left, which is one thread's with --separate-threads=yes."""

    def __init__(self, path):
        self.own = Counter()        # by function
        self.inclusive = Counter()  # by called function: of all calls of it, with what they call
        names = {}

        def name(text):
            # "(7) name" the first time, "(7)" then.
            number, known = re.match(r"\((\d+)\)(?: (.*))?", text).groups()
            if known:
                names[number] = known
            return names[number]

        function = called = None
        is_call = False
        for line in open(path):
            key, _, value = line.rstrip("\n").partition("=")
            if key == "fn":
                function = name(value)
            elif key == "cfn":
                called = name(value)
            elif key == "calls":
                is_call = True
            elif function and re.match(r"[+*\d-]", line):
                cost = int(line.split()[1])
                if is_call:
                    self.inclusive[called] += cost
                else:
                    self.own[function] += cost
                is_call = False

    def total(self):
        return sum(self.own.values())

    def of_calls(self, *texts):
        """Of all calls of functions whose name has one of the texts. They must not call each other."""
        return sum(cost for function, cost in self.inclusive.items() if any(text in function for text in texts))

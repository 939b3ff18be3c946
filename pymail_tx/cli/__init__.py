"""
The command line C{pymail-tx}, a module for each command: L{send
<pymail_tx.cli.send>}, L{sink <pymail_tx.cli.sink>}.

The rules of the house:

  1. Results go to standard output, everything else to standard error.
  2. A mistake gets one line, which names the option, and no traceback and no
     page of usage (L{pymail_tx.cli.mistake}).
  3. Every help has examples, and the tests run them.
  4. The reactor is named in L{pymail_tx.cli.running} only.
"""

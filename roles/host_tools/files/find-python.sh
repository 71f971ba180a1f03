#!/bin/sh
# Prints the path of the first of the given Pythons that is 3.10 or newer and can make environments.
for python in "$@"; do
    "$python" -c '
import ensurepip, sys, venv
if sys.version_info < (3, 10):
    sys.exit(1)
print(getattr(sys, "_base_executable", sys.executable))  # inside an environment: the Python that it was made of
' 2>/dev/null && exit 0
done
exit 1

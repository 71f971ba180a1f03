#!/usr/bin/env bash
# STUB of cards in a machine: what sysfs shows of them, and device files. Usage: host.sh NUMBER [VERSION_OF_LOADED_MODULE]
set -euo pipefail
mount -t tmpfs stub /sys/bus/pci/devices
for n in $(seq "$1"); do
  place="/sys/bus/pci/devices/0000:0$n:00.0"
  mkdir "$place"
  echo 0x10de >"$place/vendor"
  echo 0x030000 >"$place/class"
  [ -e "/dev/nvidia$((n - 1))" ] || mknod -m 666 "/dev/nvidia$((n - 1))" c 1 3
done
[ "$1" = 0 ] || [ -e /dev/nvidiactl ] || mknod -m 666 /dev/nvidiactl c 1 3
if [ -n "${2:-}" ]; then
  mount -t tmpfs stub /proc/driver
  mkdir /proc/driver/nvidia
  echo "NVRM version: NVIDIA UNIX x86_64 Kernel Module  $2  stub" >/proc/driver/nvidia/version
fi

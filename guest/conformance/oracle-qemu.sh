#!/bin/sh
# Runs the conformance binary on the in-kernel binder driver, in QEMU without KVM.
#
# usage: oracle-qemu.sh KERNEL_DIR BINARY [COMMAND [ARGUMENT...]]     e.g.  ... run    ... run sync-call    ... count
#
# KERNEL_DIR holds `bzImage` and `modules/` (the unpacked lib/modules/VERSION of the same kernel package). The guest
# is busybox, binder_linux.ko and the binary; the default command is `run`. What the command prints goes to stdout
# after a line with the kernel's version; the exit status is the command's. Needs qemu-system-x86_64, cpio and a
# static busybox (package busybox-static). ORACLE_TIMEOUT is the limit in seconds (default 580), ORACLE_CPUS the number
# of vCPUs (default 1, as transcripts are made); KEEP=1 keeps the work folder.
set -eu
[ $# -ge 2 ] || { sed -n '2,10p' "$0" >&2; exit 2; }
kernel=$1 binary=$2
shift 2
[ $# -gt 0 ] || set -- run

work=$(mktemp -d)
[ -n "${KEEP:-}" ] || trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp"
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$binary" "$root/bin/conformance"
cp "$kernel/modules/kernel/drivers/android/binder_linux.ko" "$root/binder_linux.ko"
printf '%s\n' "$*" > "$root/arguments"
cat > "$root/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t debugfs debug /sys/kernel/debug
insmod /binder_linux.ko devices=binder,hwbinder,vndbinder || poweroff -f
chmod 666 /dev/*binder
dmesg -n 1
echo "@@begin"
echo "kernel $(uname -r) $(uname -v)"
conformance $(cat /arguments) 2>&1
echo "@@status $?"
sync
poweroff -f
INIT
chmod 755 "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) > "$work/initrd"

timeout "${ORACLE_TIMEOUT:-580}" qemu-system-x86_64 -accel tcg -cpu max -m 512 -smp "${ORACLE_CPUS:-1}" -no-reboot -nographic -nodefaults \
    -serial file:"$work/console" -kernel "$kernel/bzImage" -initrd "$work/initrd" \
    -append "security=selinux selinux=1 enforcing=0 console=ttyS0 quiet panic=-1" < /dev/null >&2 || true

tr -d '\r' < "$work/console" | sed -n '/@@begin$/,/^@@status/p' | sed '/@@begin$/d; /^@@status/d'
status=$(tr -d '\r' < "$work/console" | sed -n 's/^@@status //p')
if [ -z "$status" ]; then
    echo "oracle-qemu: the guest did not finish; its last lines:" >&2
    tail -20 "$work/console" >&2
    exit 1
fi
exit "$status"

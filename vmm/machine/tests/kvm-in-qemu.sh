#!/bin/sh
# Tests the KVM engine on a computer without hardware virtualization: QEMU's TCG emulates AMD SVM, and
# Debian's kernel, booted on it, offers a real /dev/kvm. In there run the engine's payload suite and,
# if they are given, a whole image with `bindervm run`.
#
#   kvm-in-qemu.sh PAYLOADS [BINDERVM IMAGE]
#
# PAYLOADS  the test binary of `cargo test -p engine --test payloads --no-run`
# BINDERVM  the command
# IMAGE     the folder of a built image; `service list` is run in it, with 1 and with 2 CPUs
#
# The outer kernel is one that an image build left in the cache. Exit status: 0 passed, 1 failed,
# 77 skipped (the reason is printed).
set -eu

cache=${XDG_CACHE_HOME:-$HOME/.cache}/bindervm
payloads=$1 bindervm=${2:-} image=${3:-}

skip() { echo "skipped: $*"; exit 77; }
command -v qemu-system-x86_64 >/dev/null || skip "qemu-system-x86_64 is not installed (package qemu-system-x86)"
command -v cpio >/dev/null || skip "cpio is not installed"
busybox=$(command -v busybox || find "$cache/packages" -path '*/bin/busybox' 2>/dev/null | head -n 1)
[ -n "$busybox" ] || skip "there is no busybox (package busybox-static, or build an image first)"
amd=$(find "$cache/kernels" -name kvm-amd.ko 2>/dev/null | head -n 1)
[ -n "$amd" ] || skip "no kernel in $cache/kernels (build an image first)"
modules=${amd%/kernel/arch/x86/kvm/kvm-amd.ko}/kernel
kernel=$(ls "${amd%%/lib/modules/*}"/boot/vmlinuz-* | head -n 1)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/modules"
cp "$busybox" "$root/bin/busybox"
for module in virt/lib/irqbypass drivers/crypto/ccp/ccp arch/x86/kvm/kvm arch/x86/kvm/kvm-amd; do
    cp "$modules/$module.ko" "$root/modules/"
done

# A program and the libraries it is linked with.
add_program() {
    cp "$1" "$root/bin/$2"
    strip "$root/bin/$2"
    for library in $(ldd "$1" | grep -o '/[^ ]*'); do
        mkdir -p "$root${library%/*}"
        cp -Lu "$library" "$root$library"
    done
}
add_program "$payloads" payloads
if [ -n "$bindervm" ]; then
    add_program "$bindervm" bindervm
    cp -rL "$image" "$root/image"
fi

cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in irqbypass ccp kvm kvm-amd; do
    /bin/busybox insmod /modules/$module.ko
done
export HOME=/tmp RUST_BACKTRACE=0
/bin/payloads --test-threads 1
echo "RESULT payloads $?"
if [ -x /bin/bindervm ]; then
    for cpus in 1 2; do
        /bin/bindervm run /image --engine kvm --cpus $cpus --timeout 240s --summary -- \
            sh -c 'service list && echo "guest CPUs: $(grep -c ^processor /proc/cpuinfo)"' >/tmp/out
        status=$?
        /bin/busybox cat /tmp/out
        /bin/busybox grep -q "^guest CPUs: $cpus" /tmp/out || status=1
        echo "RESULT image$cpus $status"
    done
fi
/bin/busybox poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) >"$work/initramfs"

timeout 540 qemu-system-x86_64 -accel tcg -cpu EPYC,+svm,+npt -m 2048 -nodefaults -display none -no-reboot \
    -serial "file:$work/console" -kernel "$kernel" -initrd "$work/initramfs" \
    -append "console=ttyS0 quiet panic=-1" 2>"$work/qemu" || cat "$work/qemu"

tr -d '\r' <"$work/console" | grep -aE '^(test |RESULT |guest CPUs|[0-9]+	|bindervm)' || true
wanted=1
[ -z "$bindervm" ] || wanted=3
[ "$(grep -acE '^RESULT [a-z0-9]+ 0' "$work/console")" = $wanted ] || { echo "failed; the console said:"; tail -n 40 "$work/console"; exit 1; }

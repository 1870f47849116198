#!/bin/sh
# Tests the KVM engine on a computer without hardware virtualization: QEMU's TCG emulates AMD SVM, and
# Debian's kernel, booted on it, offers a real /dev/kvm. In there run test binaries, and a whole image: the main job
# with 1 and with 2 CPUs, a binder device that answers late, a panic that only pvpanic tells of, snapshots (which are
# refused), and two guests of one domain in one process.
#
#   kvm-in-qemu.sh BINDERVM IMAGE TEST...
#
# BINDERVM  the command
# IMAGE     the folder of the built image aosp14
# TEST      test binaries (`cargo test --no-run`) of bare-metal guests: `payloads` of engine, `debugger` of machine
#
# The outer kernel is one that an image build left in the cache. Exit status: 0 passed, 1 failed,
# 77 skipped (the reason is printed).
set -eu

cache=${XDG_CACHE_HOME:-$HOME/.cache}/bindervm
bindervm=$1 image=$2
shift 2

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
mkdir -p "$root/bin" "$root/tests" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/modules"
cp "$busybox" "$root/bin/busybox"
for module in virt/lib/irqbypass drivers/crypto/ccp/ccp arch/x86/kvm/kvm arch/x86/kvm/kvm-amd; do
    cp "$modules/$module.ko" "$root/modules/"
done

# A program and the libraries it is linked with.
add_program() {
    cp "$1" "$root/$2"
    strip "$root/$2"
    for library in $(ldd "$1" | grep -o '/[^ ]*'); do
        mkdir -p "$root${library%/*}"
        cp -Lu "$library" "$root$library"
    done
}
wanted=8
for test in "$@"; do
    name=${test##*/}
    add_program "$test" "tests/${name%-*}"
    wanted=$((wanted + 1))
done
add_program "$bindervm" bin/bindervm
cp -rL "$image" "$root/image"

for guest in one two; do
    cat <<GROUP
[guest.$guest]
image = "/image"
engine = "kvm"
memory = "256M"
domain = "shop"
timeout = "240s"
serve = true
GROUP
done >"$root/tmp/group.toml"

cat >"$root/init" <<'INIT'
#!/bin/busybox sh
for tool in mount insmod grep cat poweroff; do alias $tool="/bin/busybox $tool"; done
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in irqbypass ccp kvm kvm-amd; do
    insmod /modules/$module.ko
done
export HOME=/tmp XDG_RUNTIME_DIR=/tmp RUST_BACKTRACE=0

# check NAME CODE TEXT COMMAND...: the command ends with CODE and says TEXT.
check() {
    name=$1 code=$2 text=$3
    shift 3
    "$@" >/tmp/out 2>&1 </dev/null
    status=$?
    cat /tmp/out
    [ -z "$text" ] || grep -qE "$text" /tmp/out || code="$code, and what was wanted was not said"
    if [ "$status" = "$code" ]; then echo "RESULT $name 0"; else echo "RESULT $name 1: status $status, not $code"; fi
}

# Two guests of one domain: a service of one is found and called from the other.
group() {
    /bin/bindervm group /tmp/group.toml &
    for guest in one two; do
        # Their sockets take a moment to be there.
        for second in 1 2 3 4 5 6 7 8 9 10; do
            /bin/bindervm wait $guest --ready --timeout 240s && continue 2
            /bin/busybox sleep 1
        done
        return 1
    done
    /bin/bindervm exec -n one -- sh -c 'demo_service shop.till >/dev/null 2>&1 & until service check shop.till | grep -q ": found"; do sleep 1; done'
    /bin/bindervm exec -n two -- demo_client shop.till 20 || return 1
    echo "calls between guests passed"
    /bin/bindervm stop one two
    wait $!
}

run="/bin/bindervm run /image --engine kvm --timeout 240s"
# Breakpoints of gdb do not stop a guest of this KVM: QEMU's VMRUN loads DR7 without arming it, and its INT3 is a
# software interrupt to the intercepts, where KVM asks for the exception.
for test in /tests/*; do
    check ${test##*/} 0 'test result: ok' $test --test-threads 1 --skip hardware_breakpoints --skip a_software_breakpoint
done
for cpus in 1 2; do
    check image$cpus 0 "^guest CPUs: $cpus" $run --cpus $cpus --summary -- \
        sh -c 'service list && echo "guest CPUs: $(grep -c ^processor /proc/cpuinfo)"'
done
check late 0 '^late: 0' $run --binder-device late -- \
    sh -c 'demo_service bindervm.late >/dev/null 2>&1 & demo_client bindervm.late 20; echo "late: $?"'
# Nothing of it is on the console.
check pvpanic 243 'its reason is not on the console' $run --append loglevel=0 -- sh -c 'echo c >/proc/sysrq-trigger'
check save 249 'a guest on KVM cannot be saved; run it with --engine soft' $run --snapshot-to /tmp/kvm.snapshot -- true
check soft 0 '' /bin/bindervm run /image --engine soft --timeout 240s --memory 128M --snapshot-to /tmp/soft.snapshot
check from 241 'it was taken on the other engine' /bin/bindervm run --from /tmp/soft.snapshot --engine kvm -- true
check group 0 '^calls between guests passed' group
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) >"$work/initramfs"

timeout 560 qemu-system-x86_64 -accel tcg -cpu EPYC,+svm,+npt -m 3072 -nodefaults -display none -no-reboot \
    -serial "file:$work/console" -kernel "$kernel" -initrd "$work/initramfs" \
    -append "console=ttyS0 quiet panic=-1" 2>"$work/qemu" || cat "$work/qemu"

tr -d '\r' <"$work/console" | grep -aE '^(test |RESULT |guest CPUs|late|calls between|[0-9]+	|bindervm)' || true
[ "$(grep -acE '^RESULT [a-z0-9_]+ 0' "$work/console")" = $wanted ] || { echo "failed; the console said:"; tail -n 40 "$work/console"; exit 1; }

#!/bin/busybox sh
# The live guest's whole system: drivers, guest agent, and some disk and network traffic for ever.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod "/modules/$module"; done

# A port's name comes in a message of its own, a moment after the driver.
until grep -qs . /sys/class/virtio-ports/*/name; do sleep 0.1; done
mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
    if [ -e "$port/name" ]; then
        ln -s "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
    fi
done
if [ -x /bin/qemu-ga ]; then
    qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -d
fi

for word in $(cat /proc/cmdline); do
    case $word in lab.net=*) net=${word#*=} ;; esac
done
ip link set lo up
ip addr add "$net.2/24" dev eth0
ip link set eth0 up

while true; do
    echo 3 > /proc/sys/vm/drop_caches
    dd if=/dev/vda of=/dev/null bs=4k count=16 2> /dev/null
    dd if=/dev/zero of=/dev/vda bs=4k count=4 conv=fsync 2> /dev/null
    ping -c 1 -W 1 "$net.1" > /dev/null
    sleep 0.2
done

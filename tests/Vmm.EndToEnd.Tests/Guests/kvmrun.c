/*
 * A virtual-machine monitor of one file for Linux's /dev/kvm, as L1 of the nested tests. It runs two guests in real mode, and
 * prints a line for each thing that has worked:
 *   devices: writes to a port, reads from a port, writes to memory that is a device, halts, and takes an interrupt that this
 *            program injects;
 *   ticks:   the kernel's own interrupt controllers and timer interrupt a guest that halts in between.
 * Ends with 0 where everything came as expected.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define MEMORY 0x10000
#define DEVICE 0x20000
#define PORT_OUT 0x10
#define PORT_IN 0x11
#define PORT_END 0x12
#define VECTOR 0x20
#define TICKS 10

/* Both guests are loaded at 0x1000, with CS = DS = SS = 0. */
extern const char devices_begin[], devices_end[], ticks_begin[], ticks_end[];

asm(".section .rodata\n"
    ".code16\n"
    "devices_begin:\n"
    "  mov $'o', %al\n  out %al, $0x10\n"
    "  mov $'k', %al\n  out %al, $0x10\n"
    "  in $0x11, %al\n  inc %al\n  out %al, $0x10\n"
    "  mov $0x2000, %ax\n  mov %ax, %es\n"
    "  movw $0x1234, %es:8\n"
    "  mov %es:4, %al\n  out %al, $0x10\n"
    "  movw $(1f - devices_begin + 0x1000), 0x80\n"
    "  movw $0, 0x82\n"
    "  xor %bl, %bl\n"
    "  sti\n  hlt\n"
    "  mov %bl, %al\n  out %al, $0x12\n"
    "0: hlt\n  jmp 0b\n"
    "1: inc %bl\n  iret\n"
    "devices_end:\n"
    "ticks_begin:\n"
    "  mov $0x11, %al\n  out %al, $0x20\n  out %al, $0xA0\n"
    "  mov $0x20, %al\n  out %al, $0x21\n  mov $0x28, %al\n  out %al, $0xA1\n"
    "  mov $4, %al\n  out %al, $0x21\n  mov $2, %al\n  out %al, $0xA1\n"
    "  mov $1, %al\n  out %al, $0x21\n  out %al, $0xA1\n"
    "  mov $0xFE, %al\n  out %al, $0x21\n  mov $0xFF, %al\n  out %al, $0xA1\n"
    "  movw $(1f - ticks_begin + 0x1000), 0x80\n"
    "  movw $0, 0x82\n"
    "  mov $0x34, %al\n  out %al, $0x43\n"
    "  mov $0xA9, %al\n  out %al, $0x40\n  mov $0x04, %al\n  out %al, $0x40\n"
    "  xor %bl, %bl\n"
    "0: sti\n  hlt\n  cmp $10, %bl\n  jb 0b\n"
    "  cli\n  mov %bl, %al\n  out %al, $0x12\n"
    "2: hlt\n  jmp 2b\n"
    "1: inc %bl\n  push %ax\n  mov $0x20, %al\n  out %al, $0x20\n  pop %ax\n  iret\n"
    "ticks_end:\n"
    ".code64\n"
    ".previous\n");

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int checked(int result, const char *what)
{
    if (result < 0)
        die(what);
    return result;
}

struct guest {
    int vm, vcpu;
    struct kvm_run *run;
};

static struct guest create(int kvm, int in_kernel, const char *code, const char *end)
{
    struct guest g;
    g.vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    if (in_kernel) {
        struct kvm_pit_config pit = { 0 };
        checked(ioctl(g.vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
        checked(ioctl(g.vm, KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
    }
    uint8_t *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    memcpy(memory + 0x1000, code, (size_t)(end - code));
    struct kvm_userspace_memory_region region = { .memory_size = MEMORY, .userspace_addr = (uintptr_t)memory };
    checked(ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    g.vcpu = checked(ioctl(g.vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    int size = checked(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    g.run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, g.vcpu, 0);
    if (g.run == MAP_FAILED)
        die("mmap of the vCPU");
    struct kvm_sregs sregs;
    checked(ioctl(g.vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    checked(ioctl(g.vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    struct kvm_regs regs = { .rip = 0x1000, .rsp = 0x8000, .rflags = 2 };
    checked(ioctl(g.vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
    return g;
}

/* Runs to the port that ends the guest, and returns what was written there; -1 after something unexpected. */
static int run(struct guest g, char *written, int *device_writes)
{
    size_t count = 0;
    for (;;) {
        checked(ioctl(g.vcpu, KVM_RUN, 0), "KVM_RUN");
        struct kvm_run *r = g.run;
        switch (r->exit_reason) {
        case KVM_EXIT_IO: {
            uint8_t *data = (uint8_t *)r + r->io.data_offset;
            if (r->io.direction == KVM_EXIT_IO_IN)
                *data = 'a';
            else if (r->io.port == PORT_END)
                return *data;
            else if (r->io.port == PORT_OUT && count < 15)
                written[count++] = (char)*data;
            break;
        }
        case KVM_EXIT_MMIO:
            if (r->mmio.is_write && r->mmio.phys_addr == DEVICE + 8 && r->mmio.len == 2 && r->mmio.data[0] == 0x34 && r->mmio.data[1] == 0x12)
                ++*device_writes;
            else if (!r->mmio.is_write && r->mmio.phys_addr == DEVICE + 4)
                r->mmio.data[0] = 'd';
            break;
        case KVM_EXIT_HLT: {
            struct kvm_interrupt interrupt = { .irq = VECTOR };
            printf("kvmrun: halted\n");
            checked(ioctl(g.vcpu, KVM_INTERRUPT, &interrupt), "KVM_INTERRUPT");
            break;
        }
        default:
            printf("kvmrun: unexpected exit %u, detail %llx\n", r->exit_reason, (unsigned long long)r->hw.hardware_exit_reason);
            return -1;
        }
    }
}

int main(void)
{
    int kvm = checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    printf("kvmrun: API %d\n", ioctl(kvm, KVM_GET_API_VERSION, 0));
    char written[16] = "";
    int device_writes = 0;
    int interrupts = run(create(kvm, 0, devices_begin, devices_end), written, &device_writes);
    printf("kvmrun: devices wrote %s, %d device writes, %d interrupts\n", written, device_writes, interrupts);
    if (strcmp(written, "okbd") != 0 || device_writes != 1 || interrupts != 1)
        return 1;
    int ticks = run(create(kvm, 1, ticks_begin, ticks_end), written, &device_writes);
    /* Ticks that were late come one after another, before the guest looks at their number. */
    printf("kvmrun: %s %d ticks\n", ticks < TICKS ? "only" : "at least", ticks < TICKS ? ticks : TICKS);
    return ticks < TICKS ? 1 : 0;
}

/*
 * Moves a nested guest between Linux's KVM and another hypervisor, as L1:
 *
 *   kvmstate GUEST STATE
 *
 * GUEST is a flat ELF32 file for 1 MiB (nested-state.inc) that is a hypervisor itself. It runs in a first VM until its own guest waits for
 * input. There the nested state is taken and printed in hexadecimal. Then a second VM, which has the same memory and registers and has
 * never been in VMX operation, is given the nested state from the file STATE, and its guest goes on from there to the end.
 * Ends with 0 where the guest ended by its own port, in the second VM.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define MEMORY (128u << 20)
#define LOAD 0x100000
#define ENTRY_AT 24 /* e_entry of an ELF32 header */
#define COM1 0x3f8
#define LINE_STATUS (COM1 + 5)
#define TRANSMITTER_EMPTY 0x60
#define END 0xf4
#define IA32_FEATURE_CONTROL 0x3a
#define MAX_CPUID 128
#define MAX_STATE 0x3000

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

static struct guest create(int kvm, uint8_t *memory)
{
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[MAX_CPUID];
    } cpuid = { .head.nent = MAX_CPUID };
    struct guest g;
    g.vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    struct kvm_userspace_memory_region region = { .memory_size = MEMORY, .userspace_addr = (uintptr_t)memory };
    checked(ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    g.vcpu = checked(ioctl(g.vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    int size = checked(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    g.run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, g.vcpu, 0);
    if (g.run == MAP_FAILED)
        die("mmap of the vCPU");
    cpuid.head.nent = MAX_CPUID;
    checked(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
    checked(ioctl(g.vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
    return g;
}

/* As a Multiboot loader leaves it: protected mode, flat segments, no paging. */
static void start(struct guest g, uint32_t entry)
{
    struct kvm_sregs sregs;
    checked(ioctl(g.vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    struct kvm_segment code = { .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1 };
    struct kvm_segment data = code;
    data.selector = 16;
    data.type = 3;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cr0 |= 1;
    checked(ioctl(g.vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    struct kvm_regs regs = { .rip = entry, .rax = 0x2badb002, .rflags = 2 };
    checked(ioctl(g.vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

/* Runs until the guest asks for input that there is not (0), or ends itself (1). */
static int run(struct guest g, int input)
{
    for (;;) {
        checked(ioctl(g.vcpu, KVM_RUN, 0), "KVM_RUN");
        struct kvm_run *r = g.run;
        if (r->exit_reason != KVM_EXIT_IO) {
            printf("kvmstate: unexpected exit %u, detail %llx\n", r->exit_reason, (unsigned long long)r->hw.hardware_exit_reason);
            exit(1);
        }
        uint8_t *data = (uint8_t *)r + r->io.data_offset;
        static int said;
        if (r->io.direction == KVM_EXIT_IO_OUT) {
            if (r->io.port == END)
                return 1;
            if (r->io.port == COM1) {
                putchar(*data);
                said = *data == '\n';
            }
        } else if (r->io.port == LINE_STATUS) {
            *data = TRANSMITTER_EMPTY | (input ? 1 : 0);
            /* The guest looks for input where it has ended a line, and for room for output elsewhere. */
            static int looks;
            looks = said ? looks + 1 : 0;
            if (!input && looks > 3) {
                looks = 0;
                return 0;
            }
        } else {
            *data = (uint8_t)input;
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    int kvm = checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    uint8_t *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    FILE *file = fopen(argv[1], "rb");
    if (!file || fread(memory + LOAD, 1, MEMORY - LOAD, file) == 0)
        die(argv[1]);
    fclose(file);
    uint32_t entry;
    memcpy(&entry, memory + LOAD + ENTRY_AT, sizeof entry);

    struct guest first = create(kvm, memory);
    start(first, entry);
    if (run(first, 0)) {
        printf("kvmstate: the guest ended early\n");
        return 1;
    }
    /* The instruction whose exit was handled here completes when the vCPU is entered again. */
    first.run->immediate_exit = 1;
    if (ioctl(first.vcpu, KVM_RUN, 0) != -1 || errno != EINTR)
        die("KVM_RUN to complete the access");

    static union {
        struct kvm_nested_state state;
        uint8_t bytes[MAX_STATE];
    } taken = { .state.size = MAX_STATE }, given;
    checked(ioctl(first.vcpu, KVM_GET_NESTED_STATE, &taken), "KVM_GET_NESTED_STATE");
    printf("kvmstate: state ");
    for (uint32_t k = 0; k < taken.state.size; k++)
        printf("%02x", taken.bytes[k]);
    printf("\n");

    file = fopen(argv[2], "rb");
    if (!file || fread(given.bytes, 1, sizeof given.bytes, file) == 0)
        die(argv[2]);
    fclose(file);
    struct guest second = create(kvm, memory);
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msr = { .head.nmsrs = 1, .entry.index = IA32_FEATURE_CONTROL };
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    checked(ioctl(first.vcpu, KVM_GET_MSRS, &msr), "KVM_GET_MSRS");
    checked(ioctl(first.vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    checked(ioctl(first.vcpu, KVM_GET_REGS, &regs), "KVM_GET_REGS");
    if (ioctl(second.vcpu, KVM_SET_MSRS, &msr) != 1)
        die("KVM_SET_MSRS");
    checked(ioctl(second.vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    checked(ioctl(second.vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
    checked(ioctl(second.vcpu, KVM_SET_NESTED_STATE, &given), "KVM_SET_NESTED_STATE");
    printf("kvmstate: state taken\n");
    return run(second, 'K') == 1 ? 0 : 1;
}

namespace Vmm.Machine.Boot;

/// <summary>What a kernel file turned out to be.</summary>
public enum KernelFormat
{
    /// <summary>A Linux bzImage.</summary>
    LinuxBzImage,

    /// <summary>An ELF file with the PVH entry note.</summary>
    Pvh,

    /// <summary>A Multiboot 1 kernel.</summary>
    Multiboot,
}

/// <summary>The processor mode in which a kernel is entered.</summary>
public enum EntryMode
{
    /// <summary>32-bit protected mode, flat segments, no paging: CR0.PE set, CR0.PG clear.</summary>
    Protected32,

    /// <summary>64-bit mode with paging on: CR0.PE and PG, CR4.PAE, EFER.LME and LMA set.</summary>
    Long64,
}

/// <summary>
/// How the boot processor enters a kernel. Interrupts are off and RFLAGS has only its fixed bit; registers that are not named
/// are zero. CS is flat with <see cref="CodeSelector"/> (64-bit code in <see cref="EntryMode.Long64"/>, else 32-bit code with a
/// limit of 4 GiB); DS, ES, FS, GS and SS are flat, writable, with <see cref="DataSelector"/>.
/// </summary>
public sealed record InitialProcessorState
{
    /// <summary>The mode.</summary>
    public required EntryMode Mode { get; init; }

    /// <summary>The first instruction.</summary>
    public required ulong Rip { get; init; }

    /// <summary>RAX.</summary>
    public ulong Rax { get; init; }

    /// <summary>RBX.</summary>
    public ulong Rbx { get; init; }

    /// <summary>RSI.</summary>
    public ulong Rsi { get; init; }

    /// <summary>RSP: zero where the protocol promises no stack.</summary>
    public ulong Rsp { get; init; }

    /// <summary>CR3 in <see cref="EntryMode.Long64"/>: identity-mapped page tables for the first 4 GiB.</summary>
    public ulong Cr3 { get; init; }

    /// <summary>Where the GDT is that holds the selectors.</summary>
    public required ulong GdtBase { get; init; }

    /// <summary>Its limit.</summary>
    public required ushort GdtLimit { get; init; }

    /// <summary>The selector of CS.</summary>
    public required ushort CodeSelector { get; init; }

    /// <summary>The selector of the data segments.</summary>
    public required ushort DataSelector { get; init; }
}

/// <summary>A Multiboot or PVH module, of which an initial RAM disk is the first.</summary>
/// <param name="Field">The field of the machine's spec that it comes from, for messages.</param>
/// <param name="Content">The bytes.</param>
/// <param name="CommandLine">The string that goes with it.</param>
public sealed record BootModule(string Field, ReadOnlyMemory<byte> Content, string CommandLine);

/// <summary>What is to be booted.</summary>
public sealed record BootRequest
{
    /// <summary>The kernel file.</summary>
    public required ReadOnlyMemory<byte> Kernel { get; init; }

    /// <summary>The kernel's file name: the first word of a Multiboot command line.</summary>
    public string KernelName { get; init; } = "kernel";

    /// <summary>The kernel's command line.</summary>
    public string CommandLine { get; init; } = "";

    /// <summary>Modules in order. Linux takes the first as its initial RAM disk, and no others.</summary>
    public IReadOnlyList<BootModule> Modules { get; init; } = [];

    /// <summary>The physical address of the ACPI root pointer, or 0 where there are no tables.</summary>
    public ulong RsdpAddress { get; init; }
}

/// <summary>A kernel in guest memory, ready to be entered.</summary>
public sealed record BootImage
{
    /// <summary>What the file was.</summary>
    public required KernelFormat Format { get; init; }

    /// <summary>How to enter it.</summary>
    public required InitialProcessorState Processor { get; init; }

    /// <summary>The lowest address of the kernel.</summary>
    public required ulong KernelAddress { get; init; }

    /// <summary>The bytes from there to the kernel's end.</summary>
    public required ulong KernelLength { get; init; }

    /// <summary>Where the modules are, in order.</summary>
    public IReadOnlyList<(ulong Address, ulong Length)> Modules { get; init; } = [];

    /// <summary>Where the command line is, or 0 where there is none.</summary>
    public ulong CommandLineAddress { get; init; }
}

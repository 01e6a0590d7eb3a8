using System.Runtime.InteropServices;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Differential;

/// <summary>
/// Runs a sequence on the processor of the host, in this process. The sequence ends with the signal of its first exception: a
/// handler in machine code copies the registers from the signal frame and has the kernel resume in the exit stub. Signals of
/// anything else go on to the handlers that were there before, the runtime's. Use, and dispose, on one dedicated thread.
/// </summary>
internal sealed unsafe partial class NativeProcessor : IDisposable
{
    // The control page, by offset.
    private const int HostStack = 0, Active = 8, AlternateLow = 16, AlternateHigh = 24, OldHandlers = 0x20, OutSignal = 0x148,
        OutCode = 0x150, InGpr = 0x180, InFlags = 0x200, OutRegisters = 0x240, InFx = 0x400, OutFx = 0x600, HostFx = 0x800, Control = 0x1000;

    // Indices into the general registers of a signal frame (the kernel's sigcontext).
    private static readonly int[] FrameGpr = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];
    private const int FrameRip = 16, FrameFlags = 17, FrameError = 19, FrameTrap = 20, FrameAddress = 22, FrameRegisters = 23;
    private const int ContextRegisters = 40, ContextFx = ContextRegisters + FrameRegisters * 8;

    private const int SigIll = 4, SigTrap = 5, SigBus = 7, SigFpe = 8, SigSegv = 11;
    private static readonly int[] Signals = [SigIll, SigTrap, SigBus, SigFpe, SigSegv];
    // The Linux kernel's selectors for programs.
    private const ushort UserCode32 = 0x23, UserData = 0x2B, UserCode64 = 0x33;
    // Entries 0 to 3 of the local descriptor table, at privilege level 3.
    private const ushort CodeSelector = 0x07, DataSelector = 0x0F, ExtraSelector = 0x17, StackSelector = 0x1F;
    private const int AlternateSize = 256 << 10;

    private readonly byte* _control;
    private readonly byte* _alternate;
    private readonly byte* _writableCode;
    private readonly delegate* unmanaged<void> _enter64, _enter32, _enter16;
    private readonly SigAction[] _oldActions = new SigAction[32];
    private readonly StackDescription _oldStack;
    private readonly SignalSet _oldMask;
    private readonly int _thread;
    private bool _disposed;

    /// <summary>Maps the sequence's address space and takes over the thread's signals.</summary>
    /// <exception cref="InvalidOperationException">The host refuses something: the message says what.</exception>
    public NativeProcessor(ReadOnlySpan<byte> readOnlyPage)
    {
        _control = Map(null, 2 * 4096, Read | Write, Private | Anonymous);
        _alternate = Map(null, AlternateSize, Read | Write, Private | Anonymous);
        // Code is one page of memory at two addresses, so that the sequence cannot write where it executes.
        int file = Check(MemfdCreate("sequence", 0), "memfd_create");
        Check(FTruncate(file, 4096), "ftruncate");
        _writableCode = Map(null, 4096, Read | Write, Shared, file);
        Map((byte*)Layout.Code, 4096, Read | Execute, Shared | FixedNoReplace, file);
        Close(file);
        Map((byte*)Layout.Data, Layout.DataSize, Read | Write, Private | Anonymous | FixedNoReplace);
        Map((byte*)Layout.Stack, Layout.StackSize, Read | Write, Private | Anonymous | FixedNoReplace);
        byte* readOnly = Map((byte*)Layout.ReadOnly, 4096, Read | Write, Private | Anonymous | FixedNoReplace);
        readOnlyPage.CopyTo(new Span<byte>(readOnly, 4096));
        Check(MProtect(readOnly, 4096, Read), "mprotect");

        (ulong handler, ulong entry64, ulong entry32, ulong entry16) = AssembleStubs();
        Check(MProtect(_control + Control, 4096, Read | Execute), "mprotect");
        _enter64 = (delegate* unmanaged<void>)entry64;
        _enter32 = (delegate* unmanaged<void>)entry32;
        _enter16 = (delegate* unmanaged<void>)entry16;
        *(ulong*)(_control + AlternateLow) = (ulong)_alternate;
        *(ulong*)(_control + AlternateHigh) = (ulong)_alternate + AlternateSize;

        _thread = (int)SystemCall(SysGetTid, 0, 0, 0);
        if (SystemCall(SysArchPrctl, ArchSetGs, (long)Layout.GsBase, 0) != 0)
            throw new InvalidOperationException("arch_prctl(ARCH_SET_GS) failed.");
        InstallSegments();
        // The runtime's signals to threads must not find a sequence's stack pointer.
        SignalSet all = default;
        for (int k = 0; k < 16; k++)
            all.Words[k] = ulong.MaxValue;
        foreach (int signal in Signals)
            all.Words[0] &= ~(1UL << (signal - 1));
        SignalSet oldMask;
        Check(PthreadSigmask(2, &all, &oldMask), "pthread_sigmask");
        _oldMask = oldMask;
        var stack = new StackDescription { Pointer = _alternate, Size = AlternateSize };
        StackDescription oldStack;
        Check(SigAltStack(&stack, &oldStack), "sigaltstack");
        _oldStack = oldStack;
        foreach (int signal in Signals)
        {
            SigAction old;
            Check(SetSigAction(signal, null, &old), "sigaction");
            _oldActions[signal] = old;
            *(ulong*)(_control + OldHandlers + signal * 8) = (ulong)old.Handler;
            var action = new SigAction { Handler = (nint)handler, Flags = SaSigInfo | SaOnStack | SaRestart };
            Check(SetSigAction(signal, &action, null), "sigaction");
        }
    }

    /// <summary>The kernel's name of the thread, for <see cref="Interrupt"/>.</summary>
    public int Thread => _thread;

    /// <summary>Ends whatever sequence runs on the thread, from another thread.</summary>
    public static void Interrupt(int thread) => SystemCall(SysTgKill, Environment.ProcessId, thread, SigBus);

    /// <summary>Runs code from given registers and memory until its first exception.</summary>
    public void Run(int bitness, ReadOnlySpan<byte> code, MachineState input, MachineState output)
    {
        var page = new Span<byte>(_writableCode, 4096);
        page.Fill(0xF4);
        code.CopyTo(page[(int)(Layout.Start(bitness) & 0xFFF)..]);
        input.Memory[..(int)Layout.DataSize].CopyTo(new Span<byte>((void*)Layout.Data, (int)Layout.DataSize));
        input.Memory[(int)Layout.DataSize..].CopyTo(new Span<byte>((void*)Layout.Stack, (int)Layout.StackSize));
        Buffer.MemoryCopy(input.Gpr, _control + InGpr, 128, 128);
        Buffer.MemoryCopy(input.Fx, _control + InFx, 512, 512);
        *(ulong*)(_control + InFlags) = input.Flags;

        if (bitness == 64)
            _enter64();
        else if (bitness == 32)
            _enter32();
        else
            _enter16();

        var registers = (ulong*)(_control + OutRegisters);
        for (int k = 0; k < 16; k++)
            output.Gpr[k] = registers[FrameGpr[k]];
        Buffer.MemoryCopy(_control + OutFx, output.Fx, 512, 512);
        output.Rip = registers[FrameRip];
        output.Flags = registers[FrameFlags];
        // A positive code comes from the kernel, on behalf of the processor; others are the watchdog's.
        output.Vector = *(int*)(_control + OutCode) > 0 ? (uint)registers[FrameTrap] : MachineState.NoVector;
        output.Error = (uint)registers[FrameError];
        output.Address = registers[FrameAddress];
        new Span<byte>((void*)Layout.Data, (int)Layout.DataSize).CopyTo(output.Memory);
        new Span<byte>((void*)Layout.Stack, (int)Layout.StackSize).CopyTo(output.Memory[(int)Layout.DataSize..]);
    }

    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        foreach (int signal in Signals)
        {
            SigAction old = _oldActions[signal];
            SetSigAction(signal, &old, null);
        }
        StackDescription stack = _oldStack;
        SigAltStack(&stack, null);
        SignalSet mask = _oldMask;
        PthreadSigmask(2, &mask, null);
        MUnmap((byte*)Layout.Code, 4096);
        MUnmap((byte*)Layout.Data, (nuint)Layout.DataSize);
        MUnmap((byte*)Layout.ReadOnly, 4096);
        MUnmap((byte*)Layout.Stack, (nuint)Layout.StackSize);
        MUnmap(_writableCode, 4096);
        MUnmap(_alternate, AlternateSize);
        MUnmap(_control, 2 * 4096);
    }

    private (ulong Handler, ulong Entry64, ulong Entry32, ulong Entry16) AssembleStubs()
    {
        var a = new Assembler(64);
        AssemblerRegister64[] registers = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
        AssemblerRegister64[] saved = [rbx, rbp, r12, r13, r14, r15];
        Label entry64 = a.CreateLabel(), entry32 = a.CreateLabel(), entry16 = a.CreateLabel(), exit = a.CreateLabel(), handler = a.CreateLabel(), chain = a.CreateLabel(), die = a.CreateLabel(), ignore = a.CreateLabel(), start64 = a.CreateLabel(), start32 = a.CreateLabel(), start16 = a.CreateLabel(), stack16 = a.CreateLabel();

        a.Label(ref entry64);
        LoadRegisters(15);
        a.mov(r15, __[r15 + InGpr + 15 * 8]);
        a.jmp(__qword_ptr[start64]);

        // Compatibility mode, through the kernel's flat 32-bit code segment; data segments are null in 64-bit processes.
        a.Label(ref entry32);
        a.mov(eax, UserData);
        a.mov(ds, ax);
        a.mov(es, ax);
        LoadRegisters(8);
        a.jmp(__fword_ptr[start32]);

        a.Label(ref entry16);
        a.mov(eax, DataSelector);
        a.mov(ds, ax);
        a.mov(eax, ExtraSelector);
        a.mov(es, ax);
        LoadRegisters(8);
        a.mov(ss, __word_ptr[stack16]);
        a.jmp(__fword_ptr[start16]);

        void LoadRegisters(int count)
        {
            foreach (AssemblerRegister64 register in saved)
                a.push(register);
            a.pushfq();
            a.mov(r15, (ulong)_control);
            a.fxsave64(__[r15 + HostFx]);
            a.mov(__[r15 + HostStack], rsp);
            a.fxrstor64(__[r15 + InFx]);
            a.push(__qword_ptr[r15 + InFlags]);
            a.popfq();
            a.mov(__dword_ptr[r15 + Active], 1);
            for (int k = 0; k < count; k++)
                a.mov(registers[k], __[r15 + InGpr + k * 8]);
        }

        a.Label(ref exit);
        a.mov(r15, (ulong)_control);
        a.fxrstor64(__[r15 + HostFx]);
        a.popfq();
        for (int k = saved.Length - 1; k >= 0; k--)
            a.pop(saved[k]);
        a.ret();

        // handler(int signal, siginfo_t* information, ucontext_t* context)
        a.Label(ref handler);
        a.mov(r9, (ulong)_control);
        a.cmp(rsp, __[r9 + AlternateLow]);
        a.jb(chain);
        a.cmp(rsp, __[r9 + AlternateHigh]);
        a.ja(chain);
        a.cmp(__dword_ptr[r9 + Active], 0);
        a.je(chain);
        a.mov(__dword_ptr[r9 + Active], 0);
        a.mov(__[r9 + OutSignal], rdi);
        a.movsxd(rax, __dword_ptr[rsi + 8]);
        a.mov(__[r9 + OutCode], rax);
        a.mov(r8, rdx);
        a.lea(rsi, __[r8 + ContextRegisters]);
        a.lea(rdi, __[r9 + OutRegisters]);
        a.mov(ecx, FrameRegisters);
        a.rep.movsq();
        a.mov(rsi, __[r8 + ContextFx]);
        a.lea(rdi, __[r9 + OutFx]);
        a.mov(ecx, 64);
        a.rep.movsq();
        a.lea(rax, __[exit]);
        a.mov(__[r8 + ContextRegisters + FrameRip * 8], rax);
        a.mov(rax, __[r9 + HostStack]);
        a.mov(__[r8 + ContextRegisters + 15 * 8], rax);
        a.mov(__qword_ptr[r8 + ContextRegisters + FrameFlags * 8], 0x202);
        // The selectors share a quadword, CS lowest and SS highest.
        a.mov(__word_ptr[r8 + ContextRegisters + (FrameFlags + 1) * 8], UserCode64);
        a.mov(__word_ptr[r8 + ContextRegisters + (FrameFlags + 1) * 8 + 6], UserData);
        a.ret();

        // The watchdog may come too late (SI_TKILL).
        a.Label(ref chain);
        a.cmp(__dword_ptr[rsi + 8], -6);
        a.je(ignore);
        a.mov(eax, edi);
        a.mov(rax, __[r9 + rax * 8 + OldHandlers]);
        a.cmp(rax, 1);
        a.jbe(die);
        a.jmp(rax);
        a.Label(ref ignore);
        a.ret();
        // Nobody handled this signal before: exit_group with the shell's code for it.
        a.Label(ref die);
        a.add(edi, 128);
        a.mov(eax, 231);
        a.syscall();
        a.Label(ref start64);
        a.dq(Layout.Code);
        a.Label(ref start32);
        a.dd((uint)Layout.Code);
        a.dw(UserCode32);
        a.Label(ref start16);
        a.dd((uint)Layout.Start(16));
        a.dw(CodeSelector);
        a.Label(ref stack16);
        a.dw(StackSelector);

        using var stream = new MemoryStream();
        AssemblerResult result = a.Assemble(new StreamCodeWriter(stream), (ulong)_control + Control, BlockEncoderOptions.ReturnNewInstructionOffsets);
        stream.ToArray().CopyTo(new Span<byte>(_control + Control, 4096));
        return (result.GetLabelRIP(handler), result.GetLabelRIP(entry64), result.GetLabelRIP(entry32), result.GetLabelRIP(entry16));
    }

    /// <summary>Whether the host's kernel gives programs 16-bit segments.</summary>
    public static bool HasSegments() => InstallSegments();

    private static bool InstallSegments() =>
        Install(CodeSelector, Layout.Code, Layout.CodeLimit, 2) && Install(DataSelector, Layout.Data, Layout.DataLimit, 0)
        && Install(ExtraSelector, Layout.Data, Layout.ExtraLimit, 0) && Install(StackSelector, Layout.Stack, Layout.StackLimit, 0);

    // struct user_desc: number, base, limit, then seg_32bit 0, contents in bits 2:1, useable in bit 6.
    private static bool Install(ushort selector, ulong @base, uint limit, uint contents)
    {
        uint* descriptor = stackalloc uint[] { (uint)selector >> 3, (uint)@base, limit, contents << 1 | 1 << 6 };
        return SystemCall(SysModifyLdt, 0x11, (long)descriptor, 16) == 0;
    }

    private static byte* Map(byte* address, ulong size, int protection, int flags, int file = -1)
    {
        byte* result = MMap(address, (nuint)size, protection, flags, file, 0);
        if (result == (byte*)-1 || (address != null && result != address))
            throw new InvalidOperationException($"Cannot map {size} bytes at {(ulong)address:x}: error {Marshal.GetLastPInvokeError()}.");
        return result;
    }

    private static int Check(int result, string what) =>
        result >= 0 ? result : throw new InvalidOperationException($"{what} failed: error {Marshal.GetLastPInvokeError()}.");

    private const int Read = 1, Write = 2, Execute = 4, Shared = 1, Private = 2, Anonymous = 0x20, FixedNoReplace = 0x10_0000;
    private const int SaSigInfo = 4, SaOnStack = 0x0800_0000, SaRestart = 0x1000_0000;
    private const long SysModifyLdt = 154, SysArchPrctl = 158, SysGetTid = 186, SysTgKill = 234, ArchSetGs = 0x1001;

    [StructLayout(LayoutKind.Sequential)]
    private struct SignalSet
    {
        public fixed ulong Words[16];
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct SigAction
    {
        public nint Handler;
        public SignalSet Mask;
        public int Flags;
        public nint Restorer;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct StackDescription
    {
        public byte* Pointer;
        public int Flags;
        public nuint Size;
    }

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial byte* MMap(byte* address, nuint size, int protection, int flags, int file, long offset);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int MUnmap(byte* address, nuint size);

    [LibraryImport("libc", EntryPoint = "mprotect", SetLastError = true)]
    private static partial int MProtect(byte* address, nuint size, int protection);

    [LibraryImport("libc", EntryPoint = "memfd_create", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int MemfdCreate(string name, uint flags);

    [LibraryImport("libc", EntryPoint = "ftruncate", SetLastError = true)]
    private static partial int FTruncate(int file, long size);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int file);

    [LibraryImport("libc", EntryPoint = "sigaction", SetLastError = true)]
    private static partial int SetSigAction(int signal, SigAction* action, SigAction* old);

    [LibraryImport("libc", EntryPoint = "sigaltstack", SetLastError = true)]
    private static partial int SigAltStack(StackDescription* stack, StackDescription* old);

    [LibraryImport("libc", EntryPoint = "pthread_sigmask")]
    private static partial int PthreadSigmask(int how, SignalSet* set, SignalSet* old);

    [LibraryImport("libc", EntryPoint = "syscall")]
    private static partial long SystemCall(long number, long a, long b, long c);
}

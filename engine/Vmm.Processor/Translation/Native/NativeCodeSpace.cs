using System.Runtime.InteropServices;
using Iced.Intel;
using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Instructions.Fpu;

namespace Vmm.Processor.Translation.Native;

/// <summary>
/// Memory for the native code of one virtual machine: mapped twice, once to write to and once to execute, so that no address is both.
/// Only on the processors' thread.
/// </summary>
internal sealed unsafe partial class NativeCodeSpace : IDisposable
{
    private const int ProtectRead = 1, ProtectWrite = 2, ProtectExecute = 4, MapShared = 1, CloseOnExec = 1;

    private const int StatusFlags = 0x3F;

    /// <summary>The registers that a function preserves for its caller (System V ABI for AMD64, section 3.2.1).</summary>
    private static readonly int[] CalleeSaved = [HostRegister.Rbx, HostRegister.Rbp, HostRegister.R12, 13, 14, HostRegister.R15];

    private readonly byte* _written;
    private readonly byte* _executed;
    private readonly int _size;
    private readonly int _stubs;
    private int _used;

    private NativeCodeSpace(byte* written, byte* executed, int size)
    {
        _written = written;
        _executed = executed;
        _size = size;
        EmitStubs();
        _stubs = _used;
    }

    /// <summary>Whether the host's processor and system are among those that there is code for.</summary>
    public static bool IsSupported => OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64;

    /// <summary>Enters code as a function (System V ABI for AMD64): state, where to enter, what goes into RAX; a <see cref="NativeExit"/>.</summary>
    public nint Enter { get; private set; }

    /// <summary>Leaves for managed code with a <see cref="NativeExit"/> in EAX.</summary>
    public nint Exit { get; private set; }

    /// <summary>Leaves in the same way, to be resumed at the address in RCX with other registers: <see cref="X64Assembler.JumpForReturn"/>.</summary>
    public nint Suspend { get; private set; }

    /// <summary>Leaves in the same way, to be resumed at the address in RCX with all registers but RAX, RCX, RDX and that of the slice as they were.</summary>
    public nint SuspendSaving { get; private set; }

    /// <summary>Called: settles the flags (<see cref="SettleStub"/>).</summary>
    public nint Settle { get; private set; }

    /// <summary>Where a trace is entered that has no native code: leaves for the interpreter.</summary>
    public nint Interpret { get; private set; }

    /// <summary>Bytes of code.</summary>
    public int Used => _used - _stubs;

    /// <summary>Maps a space. Null where the host does not allow it.</summary>
    /// <param name="size">Bytes, a multiple of the page size; memory is taken as code comes in.</param>
    public static NativeCodeSpace? TryCreate(int size)
    {
        if (!IsSupported)
            return null;
        int file = CreateFile("vmm-code", CloseOnExec);
        if (file < 0)
            return null;
        void* written = (void*)-1, executed = (void*)-1;
        if (Truncate(file, size) == 0)
        {
            written = Map(null, (nuint)size, ProtectRead | ProtectWrite, MapShared, file, 0);
            executed = Map(null, (nuint)size, ProtectRead | ProtectExecute, MapShared, file, 0);
        }
        _ = Close(file);
        if ((nint)written != -1 && (nint)executed != -1)
            return new NativeCodeSpace((byte*)written, (byte*)executed, size);
        if ((nint)written != -1)
            _ = Unmap(written, (nuint)size);
        if ((nint)executed != -1)
            _ = Unmap(executed, (nuint)size);
        return null;
    }

    /// <summary>Adds code. False where there is no room.</summary>
    public bool TryAdd(NativeCode code)
    {
        int size = code.Bytes.Length;
        if (size > _size - _used)
            return false;
        code.Place((nint)(_executed + _used));
        code.Bytes.CopyTo(new Span<byte>(_written + _used, size));
        _used = Math.Min(_size, _used + size + NativeCode.Alignment - 1 & -NativeCode.Alignment);
        return true;
    }

    /// <summary>The name of a stub, for people; null where none begins at that address.</summary>
    public string? NameOf(nint address) =>
        address == Exit ? nameof(Exit) : address == Suspend ? nameof(Suspend) : address == SuspendSaving ? nameof(SuspendSaving)
        : address == Settle ? nameof(Settle) : address == Interpret ? nameof(Interpret) : null;

    /// <summary>Takes all code back. While none of it runs.</summary>
    public void Clear() => _used = _stubs;

    public void Dispose()
    {
        _ = Unmap(_written, (nuint)_size);
        _ = Unmap(_executed, (nuint)_size);
    }

    private void EmitStubs()
    {
        var a = new X64Assembler();
        foreach (int register in CalleeSaved)
            a.Push(register);
        a.Move(HostRegister.Rbx, HostRegister.Rdi, true);
        a.Move(HostRegister.Rax, HostRegister.Rdx, true);
        a.Load(NativeLayout.Slice, NativeLayout.FrameSlice, 8);
        a.Jump(HostRegister.Rsi);
        Enter = Add(a);
        a.Store(NativeLayout.FrameSlice, NativeLayout.Slice, 8);
        EmitDefaultControls(a);
        foreach (int register in CalleeSaved.Reverse())
            a.Pop(register);
        a.Return();
        Exit = Add(a);
        a.Store(NativeLayout.Resume, HostRegister.Rcx, 8);
        a.Jump(Exit);
        Suspend = Add(a);
        for (int register = HostRegister.Rbp; register < NativeLayout.Slice; register++)
            a.Load(register, NativeLayout.Saved(register), 8);
        a.Jump(NativeLayout.Continuation);
        nint resume = Add(a);
        a.Store(NativeLayout.Continuation, HostRegister.Rcx, 8);
        for (int register = HostRegister.Rbp; register < NativeLayout.Slice; register++)
            a.Store(NativeLayout.Saved(register), register, 8);
        a.MoveImmediate(HostRegister.Rcx, resume);
        a.Store(NativeLayout.Resume, HostRegister.Rcx, 8);
        a.Jump(Exit);
        SuspendSaving = Add(a);
        SettleStub.Emit(a, SuspendSaving);
        Settle = Add(a);
        a.Store(NativeLayout.Insn, HostRegister.Rax, 8);
        a.MoveImmediate(HostRegister.Rax, (int)NativeExit.Leave);
        a.Jump(Exit);
        Interpret = Add(a);
    }

    // Managed code has nothing against flags that the guest has set, but rounds in its own way. The host has the guest's control words or these.
    private static void EmitDefaultControls(X64Assembler a)
    {
        a.Load(HostRegister.Rcx, NativeLayout.Mxcsr, 4);
        a.ArithmeticImmediate(HostArithmetic.And, HostRegister.Rcx, ~StatusFlags, false);
        a.ArithmeticImmediate(HostArithmetic.Compare, HostRegister.Rcx, (int)Mxcsr.Default, false);
        int same = a.JumpIf(HostCondition.Equal);
        a.PushImmediate((int)Mxcsr.Default);
        a.Add(Instruction.Create(Code.Ldmxcsr_m32, new MemoryOperand(Register.RSP)));
        a.Pop(HostRegister.Rcx);
        a.Patch(same);
        a.Load(HostRegister.Rcx, NativeLayout.Fcw, 2);
        a.ArithmeticImmediate(HostArithmetic.Compare, HostRegister.Rcx, X87.DefaultControl, false);
        same = a.JumpIf(HostCondition.Equal);
        a.PushImmediate(X87.DefaultControl);
        a.Add(Instruction.Create(Code.Fldcw_m2byte, new MemoryOperand(Register.RSP)));
        a.Pop(HostRegister.Rcx);
        a.Patch(same);
    }

    private nint Add(X64Assembler a)
    {
        var stub = new NativeCode(a.Code.ToArray(), a.References, []) { IsLoop = false, CallsHandlers = false };
        if (!TryAdd(stub))
            throw new InvalidOperationException("The stubs do not fit.");
        a.Reset();
        return stub.Entry;
    }

    [LibraryImport("libc", EntryPoint = "memfd_create", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int CreateFile(string name, uint flags);

    [LibraryImport("libc", EntryPoint = "ftruncate")]
    private static partial int Truncate(int file, long size);

    [LibraryImport("libc", EntryPoint = "mmap")]
    private static partial void* Map(void* address, nuint size, int protection, int flags, int file, long offset);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int Unmap(void* address, nuint size);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int file);
}

using System.Buffers.Binary;
using Iced.Intel;

namespace Vmm.Processor.Translation.Native;

/// <summary>The host's general registers that have a name here, by the numbers that instructions encode.</summary>
internal static class HostRegister
{
    public const int Rax = 0, Rcx = 1, Rdx = 2, Rbx = 3, Rsp = 4, Rbp = 5, Rsi = 6, Rdi = 7, R12 = 12, R15 = 15;

    /// <summary>No register.</summary>
    public const int None = -1;
}

/// <summary>The condition codes of Jcc, SETcc and CMOVcc.</summary>
internal enum HostCondition
{
    Below = 2,
    AboveOrEqual = 3,
    Equal = 4,
    NotEqual = 5,
    BelowOrEqual = 6,
    Above = 7,
    Sign = 8,
    NotParity = 11,
    Less = 12,
    GreaterOrEqual = 13,
    LessOrEqual = 14,
    Greater = 15,
}

/// <summary>The operations of opcode group 1, by their number there.</summary>
internal enum HostArithmetic
{
    Add = 0,
    Or = 1,
    And = 4,
    Sub = 5,
    Xor = 6,
    Compare = 7,
}

/// <summary>The operations of opcode group 2, by their number there.</summary>
internal enum HostShift
{
    RotateLeft = 0,
    RotateRight = 1,
    Left = 4,
    Right = 5,
    RightSigned = 7,
}

/// <summary>A memory operand: base + (index &lt;&lt; scale) + displacement.</summary>
internal readonly record struct HostMemory(int Base, int Displacement, int Index = HostRegister.None, int Scale = 0);

/// <summary>
/// Encodes instructions of an x86-64 host into a buffer (SDM volume 2, chapter 2). Register operands come in the order of the manual's
/// syntax, the destination first. The buffer ends with an exception.
/// </summary>
internal sealed class X64Assembler
{
    // SDM volume 2B, NOP, "Recommended Multi-Byte Sequence of NOP Instruction": by the number of bytes less one.
    private static readonly byte[][] Nops =
    [
        [0x90],
        [0x66, 0x90],
        [0x0F, 0x1F, 0x00],
        [0x0F, 0x1F, 0x40, 0x00],
        [0x0F, 0x1F, 0x44, 0x00, 0x00],
        [0x66, 0x0F, 0x1F, 0x44, 0x00, 0x00],
        [0x0F, 0x1F, 0x80, 0x00, 0x00, 0x00, 0x00],
        [0x0F, 0x1F, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
        [0x66, 0x0F, 0x1F, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    ];

    private readonly byte[] _bytes = new byte[1 << 17];
    private readonly Encoder _encoder;
    private readonly List<NativeReference> _references = [];
    private int _at;

    public X64Assembler() => _encoder = Encoder.Create(64, new Writer(this));

    /// <summary>Bytes so far.</summary>
    public int Position => _at;

    /// <summary>What has been encoded.</summary>
    public ReadOnlySpan<byte> Code => _bytes.AsSpan(0, _at);

    /// <summary>The references in it to addresses.</summary>
    public NativeReference[] References => [.. _references];

    /// <summary>Begins anew.</summary>
    public void Reset()
    {
        _at = 0;
        _references.Clear();
    }

    public void Move(int to, int from, bool wide) => Registers(0x8B, to, from, wide);

    public void MoveImmediate(int to, long value)
    {
        if (value == (uint)value)
        {
            Rex(false, 0, HostRegister.None, to, false);
            Byte(0xB8 | to & 7);
            Int32((int)value);
        }
        else if (value == (int)value)
        {
            Registers(0xC7, 0, to, true);
            Int32((int)value);
        }
        else
        {
            Rex(true, 0, HostRegister.None, to, false);
            Byte(0xB8 | to & 7);
            Int64(value);
        }
    }

    /// <summary>Reads 1, 2, 4 or 8 bytes, zero-extended.</summary>
    public void Load(int to, in HostMemory from, int size) => Memory(size switch { 1 => 0xFB6, 2 => 0xFB7, _ => 0x8B }, to, from, size == 8);

    public void Store(in HostMemory to, int from, int size)
    {
        if (size == 2)
            Byte(0x66);
        Memory(size == 1 ? 0x88 : 0x89, from, to, size == 8, byteRegister: size == 1);
    }

    /// <summary>Writes an immediate of up to 4 bytes, sign-extended to 8.</summary>
    public void StoreImmediate(in HostMemory to, int value, int size)
    {
        if (size == 2)
            Byte(0x66);
        Memory(size == 1 ? 0xC6 : 0xC7, 0, to, size == 8);
        if (size == 1)
            Byte(value);
        else if (size == 2)
            Int16(value);
        else
            Int32(value);
    }

    public void LoadAddress(int to, in HostMemory address, bool wide) => Memory(0x8D, to, address, wide);

    public void Arithmetic(HostArithmetic operation, int to, int from, bool wide) => Registers((int)operation * 8 + 3, to, from, wide);

    public void Arithmetic(HostArithmetic operation, int to, in HostMemory from, bool wide) => Memory((int)operation * 8 + 3, to, from, wide);

    public void ArithmeticImmediate(HostArithmetic operation, int to, int value, bool wide)
    {
        Registers(value == (sbyte)value ? 0x83 : 0x81, (int)operation, to, wide);
        ImmediateOf(value);
    }

    public void ArithmeticImmediate(HostArithmetic operation, in HostMemory to, int value, bool wide)
    {
        Memory(value == (sbyte)value ? 0x83 : 0x81, (int)operation, to, wide);
        ImmediateOf(value);
    }

    public void Test(int a, int b, bool wide) => Registers(0x85, b, a, wide);

    public void Multiply(int to, int from, bool wide) => Registers(0xFAF, to, from, wide);

    public void MultiplyImmediate(int to, int from, int value, bool wide)
    {
        Registers(0x69, to, from, wide);
        Int32(value);
    }

    /// <summary>RDX:RAX = RAX times a register.</summary>
    public void MultiplyWide(int by) => Registers(0xF7, 4, by, true);

    public void Not(int register, bool wide) => Registers(0xF7, 2, register, wide);

    public void Negate(int register, bool wide) => Registers(0xF7, 3, register, wide);

    /// <summary>Shifts or rotates by a constant.</summary>
    public void Shift(HostShift operation, int register, int count, bool wide)
    {
        Registers(0xC1, (int)operation, register, wide);
        Byte(count);
    }

    /// <summary>Shifts or rotates by CL.</summary>
    public void Shift(HostShift operation, int register, bool wide) => Registers(0xD3, (int)operation, register, wide);

    public void ByteSwap(int register, bool wide)
    {
        Rex(wide, 0, HostRegister.None, register, false);
        Byte(0x0F);
        Byte(0xC8 | register & 7);
    }

    /// <summary>Extends the low 8 or 16 bits to 32.</summary>
    public void Extend(int to, int from, int size, bool signed) =>
        Registers(size == 1 ? signed ? 0xFBE : 0xFB6 : signed ? 0xFBF : 0xFB7, to, from, false, byteRegister: size == 1);

    /// <summary>Extends the low 32 bits to 64 with sign.</summary>
    public void ExtendSigned32(int to, int from) => Registers(0x63, to, from, true);

    /// <summary>Sets a byte register to 0 or 1.</summary>
    public void Set(HostCondition condition, int to) => Registers(0xF90 | (int)condition, 0, to, false, byteRegister: true);

    public void MoveIf(HostCondition condition, int to, int from, bool wide) => Registers(0xF40 | (int)condition, to, from, wide);

    public void Push(int register)
    {
        Rex(false, 0, HostRegister.None, register, false);
        Byte(0x50 | register & 7);
    }

    public void Pop(int register)
    {
        Rex(false, 0, HostRegister.None, register, false);
        Byte(0x58 | register & 7);
    }

    public void PushImmediate(int value)
    {
        Byte(0x68);
        Int32(value);
    }

    public void Return() => Byte(0xC3);

    /// <summary>Encodes any other instruction that has no address relative to RIP.</summary>
    public void Add(in Instruction instruction) => _encoder.Encode(instruction, 0);

    public void Jump(int register) => Registers(0xFF, 4, register, false);

    public void Jump(in HostMemory target) => Memory(0xFF, 4, target, false);

    /// <summary>Jumps to an address within 2 GiB.</summary>
    public void Jump(nint target)
    {
        Byte(0xE9);
        Relative(target);
    }

    /// <summary>Calls an address within 2 GiB.</summary>
    public void Call(nint target)
    {
        Byte(0xE8);
        Relative(target);
    }

    /// <summary>
    /// Jumps to an address within 2 GiB with that of the next instruction in RCX. A call that is not returned from with RET would have the
    /// processor mispredict every return up to the dispatcher's.
    /// </summary>
    public void JumpForReturn(nint target)
    {
        const int jumpSize = 5;
        // LEA RCX, [RIP + 5]
        Byte(0x48);
        Byte(0x8D);
        Byte(0x0D);
        Int32(jumpSize);
        Jump(target);
    }

    /// <summary>Jumps to where <see cref="Patch"/> will say.</summary>
    /// <returns>What to tell it.</returns>
    public int Jump()
    {
        Byte(0xE9);
        Int32(0);
        return _at - 4;
    }

    /// <summary>Jumps, under a condition, to where <see cref="Patch"/> will say.</summary>
    /// <returns>What to tell it.</returns>
    public int JumpIf(HostCondition condition)
    {
        Byte(0x0F);
        Byte(0x80 | (int)condition);
        Int32(0);
        return _at - 4;
    }

    /// <summary>Lets a jump lead here.</summary>
    public void Patch(int jump) => BinaryPrimitives.WriteInt32LittleEndian(_bytes.AsSpan(jump, 4), _at - jump - 4);

    /// <summary>Fills up to a multiple of <see cref="NativeCode.Alignment"/> with instructions that do nothing: where a loop begins anywhere, processors fetch it more slowly.</summary>
    public void Align()
    {
        int missing = -_at & NativeCode.Alignment - 1;
        for (; missing > 0; missing -= Math.Min(missing, Nops.Length))
        {
            foreach (byte each in Nops[Math.Min(missing, Nops.Length) - 1])
                Byte(each);
        }
    }

    /// <summary>Jumps to a position of the buffer that has been passed.</summary>
    public void JumpBack(int position)
    {
        Byte(0xE9);
        Int32(position - (_at + 4));
    }

    private void Relative(nint target)
    {
        _references.Add(new NativeReference(_at, target));
        Int32(0);
    }

    private void ImmediateOf(int value)
    {
        if (value == (sbyte)value)
            Byte(value);
        else
            Int32(value);
    }

    private void Registers(int opcode, int register, int other, bool wide, bool byteRegister = false)
    {
        Rex(wide, register, HostRegister.None, other, byteRegister);
        Opcode(opcode);
        Byte(0xC0 | (register & 7) << 3 | other & 7);
    }

    private void Memory(int opcode, int register, in HostMemory memory, bool wide, bool byteRegister = false)
    {
        Rex(wide, register, memory.Index, memory.Base, byteRegister);
        Opcode(opcode);
        int field = (register & 7) << 3;
        if (memory.Base == HostRegister.None)
        {
            // A scaled index alone: a base of 101 with mode 00 is none, and 32 bits of displacement follow.
            Byte(field | 4);
            Byte(memory.Scale << 6 | (memory.Index == HostRegister.None ? 4 : memory.Index & 7) << 3 | 5);
            Int32(memory.Displacement);
            return;
        }
        int mode = memory.Displacement == 0 && (memory.Base & 7) != 5 ? 0 : memory.Displacement == (sbyte)memory.Displacement ? 1 : 2;
        if (memory.Index != HostRegister.None || (memory.Base & 7) == 4)
        {
            Byte(mode << 6 | field | 4);
            Byte(memory.Scale << 6 | (memory.Index == HostRegister.None ? 4 : memory.Index & 7) << 3 | memory.Base & 7);
        }
        else
        {
            Byte(mode << 6 | field | memory.Base & 7);
        }
        if (mode == 1)
            Byte(memory.Displacement);
        else if (mode == 2)
            Int32(memory.Displacement);
    }

    private void Opcode(int opcode)
    {
        if (opcode > 0xFF)
            Byte(0x0F);
        Byte(opcode);
    }

    // With any REX prefix, byte registers 4 to 7 are SPL to DIL instead of AH to BH.
    private void Rex(bool wide, int register, int index, int other, bool force)
    {
        int rex = 0x40 | (wide ? 8 : 0) | (register & 8) >> 1 | (index == HostRegister.None ? 0 : (index & 8) >> 2) | (other == HostRegister.None ? 0 : (other & 8) >> 3);
        if (rex != 0x40 || force)
            Byte(rex);
    }

    private void Byte(int value) => _bytes[_at++] = (byte)value;

    private void Int16(int value)
    {
        BinaryPrimitives.WriteInt16LittleEndian(_bytes.AsSpan(_at, 2), (short)value);
        _at += 2;
    }

    private void Int32(int value)
    {
        BinaryPrimitives.WriteInt32LittleEndian(_bytes.AsSpan(_at, 4), value);
        _at += 4;
    }

    private void Int64(long value)
    {
        BinaryPrimitives.WriteInt64LittleEndian(_bytes.AsSpan(_at, 8), value);
        _at += 8;
    }

    private sealed class Writer(X64Assembler assembler) : CodeWriter
    {
        public override void WriteByte(byte value) => assembler.Byte(value);
    }
}

using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Vmm.Processor.Vmx;

/// <summary>
/// A virtual-machine control structure: a value for every field of <see cref="VmcsField"/>, reached by the field's own
/// encoding (SDM volume 3, section 25.11.2: width in bits 14:13, type in 11:10, index in 9:1).
/// </summary>
public sealed unsafe class Vmcs : IDisposable
{
    private const int Slots = 1024;
    private ulong* _fields = (ulong*)NativeMemory.AllocZeroed(Slots, sizeof(ulong));

    /// <summary>A field's value, zero-extended to 64 bits.</summary>
    public ulong this[VmcsField field]
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => _fields[Slot(field)];
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        set => _fields[Slot(field)] = value;
    }

    /// <summary>A 32-bit field's value.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public uint Read32(VmcsField field) => (uint)_fields[Slot(field)];

    /// <summary>
    /// Where a field lives. Fields of one width and type with neighbouring indices are neighbours, so the eight fields of the
    /// segment registers from ES to TR are an array.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal ulong* Location(VmcsField field) => _fields + Slot(field);

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.Free(_fields);
        _fields = null;
    }

    // Width and type are two bits each, the index stays below 64 in every group of the manual's list.
    private static int Slot(VmcsField field) => (((int)field >> 13 & 3) << 8) | (((int)field >> 10 & 3) << 6) | ((int)field >> 1 & 63);
}

using System.Runtime.Intrinsics.X86;
using V = System.Runtime.Intrinsics.Vector128<byte>;

namespace Vmm.Processor.Instructions.Sse;

internal readonly struct AesEncryptOp : IPackedOp
{
    public static V Apply(V a, V b) => Aes.IsSupported ? Aes.Encrypt(a, b) : AesCipher.MixColumns(AesCipher.SubShift(a)) ^ b;
}

internal readonly struct AesEncryptLastOp : IPackedOp
{
    public static V Apply(V a, V b) => Aes.IsSupported ? Aes.EncryptLast(a, b) : AesCipher.SubShift(a) ^ b;
}

internal readonly struct AesDecryptOp : IPackedOp
{
    public static V Apply(V a, V b) => Aes.IsSupported ? Aes.Decrypt(a, b) : AesCipher.InverseMixColumns(AesCipher.InverseSubShift(a)) ^ b;
}

internal readonly struct AesDecryptLastOp : IPackedOp
{
    public static V Apply(V a, V b) => Aes.IsSupported ? Aes.DecryptLast(a, b) : AesCipher.InverseSubShift(a) ^ b;
}

internal readonly struct AesInverseMixOp : IPackedOp
{
    public static V Apply(V a, V b) => Aes.IsSupported ? Aes.InverseMixColumns(b) : AesCipher.InverseMixColumns(b);
}

internal readonly struct AesKeyAssistOp : IPackedImmediateOp
{
    public static V Apply(V a, V b, byte immediate)
    {
        uint x1 = AesCipher.SubWord(b.AsUInt32()[1]), x3 = AesCipher.SubWord(b.AsUInt32()[3]);
        return Vector128.Create(x1, uint.RotateRight(x1, 8) ^ immediate, x3, uint.RotateRight(x3, 8) ^ immediate).AsByte();
    }
}

/// <summary>The steps of the AES round (FIPS 197, section 5) for hosts without AES instructions. A state is 16 bytes, column by column.</summary>
internal static class AesCipher
{
    private static readonly byte[] s_box = BuildBox();
    private static readonly byte[] s_inverseBox = Invert(s_box);

    /// <summary>SubWord of the key expansion.</summary>
    public static uint SubWord(uint word) =>
        s_box[(byte)word] | (uint)s_box[(byte)(word >> 8)] << 8 | (uint)s_box[(byte)(word >> 16)] << 16 | (uint)s_box[word >> 24] << 24;

    /// <summary>ShiftRows and SubBytes.</summary>
    public static V SubShift(V state)
    {
        Span<byte> result = stackalloc byte[16];
        for (int n = 0; n < 16; n++)
            result[n] = s_box[state[(n + 4 * (n & 3)) & 15]];
        return Vector128.Create<byte>(result);
    }

    /// <summary>InvShiftRows and InvSubBytes.</summary>
    public static V InverseSubShift(V state)
    {
        Span<byte> result = stackalloc byte[16];
        for (int n = 0; n < 16; n++)
            result[n] = s_inverseBox[state[(n - 4 * (n & 3)) & 15]];
        return Vector128.Create<byte>(result);
    }

    /// <summary>MixColumns.</summary>
    public static V MixColumns(V state) => Mix(state, 2, 3, 1, 1);

    /// <summary>InvMixColumns.</summary>
    public static V InverseMixColumns(V state) => Mix(state, 14, 11, 13, 9);

    private static V Mix(V state, byte c0, byte c1, byte c2, byte c3)
    {
        Span<byte> result = stackalloc byte[16];
        for (int n = 0; n < 16; n++)
        {
            int column = n & 12;
            result[n] = (byte)(Multiply(state[n], c0) ^ Multiply(state[column | ((n + 1) & 3)], c1)
                ^ Multiply(state[column | ((n + 2) & 3)], c2) ^ Multiply(state[column | ((n + 3) & 3)], c3));
        }
        return Vector128.Create<byte>(result);
    }

    /// <summary>Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.</summary>
    private static byte Multiply(byte a, byte b)
    {
        int product = 0, addend = a;
        for (int n = 0; n < 4; n++)
        {
            if ((b >> n & 1) != 0)
                product ^= addend;
            addend = (addend << 1) ^ ((addend & 0x80) != 0 ? 0x11B : 0);
        }
        return (byte)product;
    }

    private static byte[] BuildBox()
    {
        // Powers of the generator 3 give inverses; the affine map follows.
        var box = new byte[256];
        var power = new byte[256];
        byte value = 1;
        for (int n = 0; n < 255; n++)
        {
            power[n] = value;
            value ^= (byte)(value << 1 ^ ((value & 0x80) != 0 ? 0x1B : 0));
        }
        for (int n = 0; n < 255; n++)
        {
            byte inverse = power[(255 - n) % 255];
            box[power[n]] = Affine(inverse);
        }
        box[0] = Affine(0);
        return box;
    }

    private static byte Affine(byte v) =>
        (byte)(v ^ byte.RotateLeft(v, 1) ^ byte.RotateLeft(v, 2) ^ byte.RotateLeft(v, 3) ^ byte.RotateLeft(v, 4) ^ 0x63);

    private static byte[] Invert(byte[] box)
    {
        var inverse = new byte[256];
        for (int n = 0; n < 256; n++)
            inverse[box[n]] = (byte)n;
        return inverse;
    }
}

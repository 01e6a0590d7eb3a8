using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Numerics;
using System.Reflection;
using System.Reflection.Emit;

namespace Vmm.Processor.Translation;

/// <summary>Code as a method in intermediate language that has the signature of a handler, for the .NET JIT compiler.</summary>
internal sealed class IlCode : RegionCode
{
    // The JIT optimises best what is written in one place, so temporaries are not reused at once; but it does not keep track of more
    // than about a thousand locals.
    private const int MostTemporaries = 320;

    private static readonly Type[] Signature = [typeof(nint), typeof(nint)];
    private static readonly OpCode[] Operations = MapOperations();
    private static readonly OpCode[] Branches = MapBranches();

    private readonly DynamicMethod _method = new("region", typeof(nint), Signature, typeof(IlCode).Module, skipVisibility: true) { InitLocals = false };
    private readonly ILGenerator _il;
    private readonly List<LocalBuilder> _locals = [];
    private readonly List<Label> _labels = [];
    private readonly Dictionary<CodeType, (List<CodeLocal> Locals, int Next)> _temporaries = [];

    // Where the code is put down as text too; mostly nowhere.
    private readonly IlListing? _listing;

    /// <summary>Creates a method without code.</summary>
    /// <param name="listing">Gets the code as text too.</param>
    public IlCode(IlListing? listing = null)
    {
        _il = _method.GetILGenerator(4096);
        _listing = listing;
    }

    /// <summary>Has the JIT compile the method.</summary>
    public CompiledCode Compile() => new(_method, _il.ILOffset);

    public override CodeLocal Declare(CodeType type)
    {
        _locals.Add(_il.DeclareLocal(TypeOf(type)));
        return new CodeLocal(type, _locals.Count - 1);
    }

    public override CodeLocal Temporary(CodeType type)
    {
        if (!_temporaries.TryGetValue(type, out (List<CodeLocal> Locals, int Next) known))
            known = ([], 0);
        if (known.Locals.Count < MostTemporaries)
        {
            known.Locals.Add(Declare(type));
            _temporaries[type] = (known.Locals, 0);
            return known.Locals[^1];
        }
        _temporaries[type] = (known.Locals, (known.Next + 1) % MostTemporaries);
        return known.Locals[known.Next];
    }

    public override CodeLabel DefineLabel()
    {
        _labels.Add(_il.DefineLabel());
        return new CodeLabel(_labels.Count - 1);
    }

    public override void Mark(CodeLabel label)
    {
        _listing?.Mark(label);
        _il.MarkLabel(_labels[label.Number]);
    }

    public override void BeginInstruction(RegionNode node, int index) => _listing?.Begin(RegionListing.Of(node, index));

    public override void Load(CodeLocal local) => Put(OpCodes.Ldloc, local);

    public override void Store(CodeLocal local) => Put(OpCodes.Stloc, local);

    public override void LoadState() => Put(OpCodes.Ldarg_0);

    public override void Constant(int value)
    {
        _listing?.Add(OpCodes.Ldc_I4, $"0x{value:x}");
        _il.Emit(OpCodes.Ldc_I4, value);
    }

    public override void Constant(long value)
    {
        _listing?.Add(OpCodes.Ldc_I8, $"0x{value:x}");
        _il.Emit(OpCodes.Ldc_I8, value);
    }

    public override void Emit(CodeOp op)
    {
        switch (op)
        {
            case CodeOp.MultiplyHigh:
                Call(typeof(WideProduct), nameof(WideProduct.High));
                break;
            case CodeOp.RotateLeft32 or CodeOp.RotateLeft64 or CodeOp.RotateRight32 or CodeOp.RotateRight64:
                Call(typeof(Rotation), op.ToString());
                break;
            case CodeOp.ByteSwap32 or CodeOp.ByteSwap64:
                Call(typeof(ByteOrder), op.ToString());
                break;
            case CodeOp.ReadVector or CodeOp.WriteVector:
                OpCode access = op == CodeOp.ReadVector ? OpCodes.Ldobj : OpCodes.Stobj;
                _listing?.Add(OpCodes.Unaligned, "1");
                _listing?.Add(access, nameof(Vector128<byte>));
                _il.Emit(OpCodes.Unaligned, (byte)1);
                _il.Emit(access, typeof(Vector128<byte>));
                break;
            default:
                Put(Operations[(int)op]);
                break;
        }
    }

    public override void Branch(CodeBranch condition, CodeLabel target)
    {
        _listing?.Add(Branches[(int)condition], IlListing.Of(target));
        _il.Emit(Branches[(int)condition], _labels[target.Number]);
    }

    public override void Select(CodeBranch condition, CodeType type)
    {
        CodeLocal taken = Temporary(type), other = Temporary(type);
        CodeLabel take = DefineLabel(), done = DefineLabel();
        Store(other);
        Store(taken);
        Branch(condition, take);
        Load(other);
        Branch(CodeBranch.Always, done);
        Mark(take);
        Load(taken);
        Mark(done);
    }

    /// <summary>Calls a static method.</summary>
    public void Call(MethodInfo method)
    {
        _listing?.Add(OpCodes.Call, method);
        _il.Emit(OpCodes.Call, method);
    }

    /// <summary>Calls a public static method of a name that is the only one of its type, with a type argument if it needs one.</summary>
    public void Call(Type type, string method, Type? argument = null) => Call(MethodOf(type, method, argument));

    /// <summary>Calls a function of managed code whose address is on the stack.</summary>
    public void CallPointer(Type result, params Type[] parameters)
    {
        _listing?.Add(OpCodes.Calli, $"{result.Name} ({string.Join(", ", parameters.Select(each => each.Name))})");
        _il.EmitCalli(OpCodes.Calli, CallingConventions.Standard, result, parameters, null);
    }

    /// <summary>Calls a handler whose address is on the stack above its arguments.</summary>
    public void CallHandler() => CallPointer(typeof(nint), Signature);

    /// <summary>Returns the value on the stack from the method.</summary>
    public void Return() => Put(OpCodes.Ret);

    private void Put(OpCode code)
    {
        _listing?.Add(code);
        _il.Emit(code);
    }

    private void Put(OpCode code, CodeLocal local)
    {
        _listing?.Add(code, IlListing.Of(local));
        _il.Emit(code, _locals[local.Slot]);
    }

    private static Type TypeOf(CodeType type) => type switch
    {
        CodeType.Int32 => typeof(int),
        CodeType.Int64 => typeof(long),
        CodeType.Pointer => typeof(nint),
        CodeType.Vector => typeof(Vector128<byte>),
        CodeType.Single => typeof(float),
        _ => typeof(double),
    };

    // Reflection is slow, and few methods are called.
    private static readonly ConcurrentDictionary<(Type Type, string Method, Type? Argument), MethodInfo> Methods = new();

    private static MethodInfo MethodOf(Type type, string method, Type? argument) => Methods.GetOrAdd((type, method, argument), static key =>
    {
        MethodInfo found = key.Type.GetMethod(key.Method, BindingFlags.Static | BindingFlags.Public)!;
        return key.Argument == null ? found : found.MakeGenericMethod(key.Argument);
    });

    private static OpCode[] MapOperations()
    {
        var map = new OpCode[Enum.GetValues<CodeOp>().Length];
        map[(int)CodeOp.Add] = OpCodes.Add;
        map[(int)CodeOp.Sub] = OpCodes.Sub;
        map[(int)CodeOp.And] = OpCodes.And;
        map[(int)CodeOp.Or] = OpCodes.Or;
        map[(int)CodeOp.Xor] = OpCodes.Xor;
        map[(int)CodeOp.Multiply] = OpCodes.Mul;
        map[(int)CodeOp.Not] = OpCodes.Not;
        map[(int)CodeOp.Negate] = OpCodes.Neg;
        map[(int)CodeOp.ShiftLeft] = OpCodes.Shl;
        map[(int)CodeOp.ShiftRightSigned] = OpCodes.Shr;
        map[(int)CodeOp.ShiftRight] = OpCodes.Shr_Un;
        map[(int)CodeOp.Equal] = OpCodes.Ceq;
        map[(int)CodeOp.Less] = OpCodes.Clt;
        map[(int)CodeOp.LessUnsigned] = OpCodes.Clt_Un;
        map[(int)CodeOp.Greater] = OpCodes.Cgt;
        map[(int)CodeOp.GreaterUnsigned] = OpCodes.Cgt_Un;
        map[(int)CodeOp.SignExtend8] = OpCodes.Conv_I1;
        map[(int)CodeOp.ZeroExtend8] = OpCodes.Conv_U1;
        map[(int)CodeOp.SignExtend16] = OpCodes.Conv_I2;
        map[(int)CodeOp.ZeroExtend16] = OpCodes.Conv_U2;
        map[(int)CodeOp.ToInt32] = OpCodes.Conv_I4;
        map[(int)CodeOp.SignExtend32] = OpCodes.Conv_I8;
        map[(int)CodeOp.ZeroExtend32] = OpCodes.Conv_U8;
        map[(int)CodeOp.ToPointer] = OpCodes.Conv_I;
        map[(int)CodeOp.Read8] = OpCodes.Ldind_U1;
        map[(int)CodeOp.Read16] = OpCodes.Ldind_U2;
        map[(int)CodeOp.Read32] = OpCodes.Ldind_U4;
        map[(int)CodeOp.Read64] = OpCodes.Ldind_I8;
        map[(int)CodeOp.ReadPointer] = OpCodes.Ldind_I;
        map[(int)CodeOp.Write8] = OpCodes.Stind_I1;
        map[(int)CodeOp.Write16] = OpCodes.Stind_I2;
        map[(int)CodeOp.Write32] = OpCodes.Stind_I4;
        map[(int)CodeOp.Write64] = OpCodes.Stind_I8;
        return map;
    }

    private static OpCode[] MapBranches()
    {
        var map = new OpCode[Enum.GetValues<CodeBranch>().Length];
        map[(int)CodeBranch.Always] = OpCodes.Br;
        map[(int)CodeBranch.True] = OpCodes.Brtrue;
        map[(int)CodeBranch.False] = OpCodes.Brfalse;
        map[(int)CodeBranch.Equal] = OpCodes.Beq;
        map[(int)CodeBranch.NotEqual] = OpCodes.Bne_Un;
        map[(int)CodeBranch.Less] = OpCodes.Blt;
        map[(int)CodeBranch.LessUnsigned] = OpCodes.Blt_Un;
        map[(int)CodeBranch.GreaterOrEqual] = OpCodes.Bge;
        map[(int)CodeBranch.GreaterOrEqualUnsigned] = OpCodes.Bge_Un;
        map[(int)CodeBranch.LessOrEqual] = OpCodes.Ble;
        map[(int)CodeBranch.LessOrEqualUnsigned] = OpCodes.Ble_Un;
        map[(int)CodeBranch.Greater] = OpCodes.Bgt;
        map[(int)CodeBranch.GreaterUnsigned] = OpCodes.Bgt_Un;
        return map;
    }
}

/// <summary>Rotates, as the methods that <see cref="CodeOp"/> names.</summary>
internal static class Rotation
{
    public static int RotateLeft32(int value, int count) => (int)BitOperations.RotateLeft((uint)value, count);

    public static long RotateLeft64(long value, int count) => (long)BitOperations.RotateLeft((ulong)value, count);

    public static int RotateRight32(int value, int count) => (int)BitOperations.RotateRight((uint)value, count);

    public static long RotateRight64(long value, int count) => (long)BitOperations.RotateRight((ulong)value, count);
}

/// <summary>Byte reversals, as the methods that <see cref="CodeOp"/> names.</summary>
internal static class ByteOrder
{
    public static int ByteSwap32(int value) => BinaryPrimitives.ReverseEndianness(value);

    public static long ByteSwap64(long value) => BinaryPrimitives.ReverseEndianness(value);
}

/// <summary>The unsigned product of two 64-bit operands.</summary>
internal static class WideProduct
{
    public static ulong High(ulong a, ulong b) => Math.BigMul(a, b, out _);
}

using System.Reflection;
using System.Reflection.Metadata;
using System.Reflection.PortableExecutable;

namespace Vmm.Grpc.Tests;

/// <summary>What an assembly file offers, or asks of others, as text.</summary>
internal sealed class AssemblyMembers : IDisposable
{
    private readonly PEReader _file;
    private readonly MetadataReader _reader;

    public AssemblyMembers(string path)
    {
        _file = new PEReader(File.OpenRead(path));
        _reader = _file.GetMetadataReader();
    }

    public byte[] PublicKey => _reader.GetBlobBytes(_reader.GetAssemblyDefinition().PublicKey);

    /// <summary>Public types, and the members that others can reach, each as <c>type</c> or <c>type::signature</c>.</summary>
    public HashSet<string> Offered()
    {
        var offered = new HashSet<string>(StringComparer.Ordinal);
        foreach (TypeDefinitionHandle handle in _reader.TypeDefinitions)
        {
            TypeDefinition type = _reader.GetTypeDefinition(handle);
            if ((type.Attributes & TypeAttributes.VisibilityMask) is not (TypeAttributes.Public or TypeAttributes.NestedPublic))
                continue;
            string name = SignatureText.Instance.GetTypeFromDefinition(_reader, handle, 0);
            offered.Add(name);
            foreach (MethodDefinition method in type.GetMethods().Select(_reader.GetMethodDefinition))
                if ((method.Attributes & MethodAttributes.MemberAccessMask) is MethodAttributes.Public or MethodAttributes.Family or MethodAttributes.FamORAssem)
                    offered.Add($"{name}::{Text(_reader.GetString(method.Name), method.DecodeSignature(SignatureText.Instance, null))}");
            foreach (FieldDefinition field in type.GetFields().Select(_reader.GetFieldDefinition))
                if ((field.Attributes & FieldAttributes.FieldAccessMask) == FieldAttributes.Public)
                    offered.Add($"{name}::{field.DecodeSignature(SignatureText.Instance, null)} {_reader.GetString(field.Name)}");
        }

        return offered;
    }

    /// <summary>Types and members that this assembly takes from one of that name, in the same form.</summary>
    public List<string> Required(string assembly)
    {
        var required = new List<string>();
        foreach (TypeReferenceHandle handle in _reader.TypeReferences)
            if (Scope(handle) == assembly)
                required.Add(SignatureText.Instance.GetTypeFromReference(_reader, handle, 0));
        foreach (MemberReference member in _reader.MemberReferences.Select(_reader.GetMemberReference))
        {
            if (Parent(member.Parent) is not ({ } type, { } scope) || scope != assembly)
                continue;
            string name = _reader.GetString(member.Name);
            required.Add(member.GetKind() == MemberReferenceKind.Method
                ? $"{type}::{Text(name, member.DecodeMethodSignature(SignatureText.Instance, null))}"
                : $"{type}::{member.DecodeFieldSignature(SignatureText.Instance, null)} {name}");
        }

        return required;
    }

    public void Dispose() => _file.Dispose();

    private static string Text(string name, MethodSignature<string> signature) =>
        $"{(signature.Header.IsInstance ? "" : "static ")}{signature.ReturnType} {name}`{signature.GenericParameterCount}({string.Join(", ", signature.ParameterTypes)})";

    private (string Type, string? Scope)? Parent(EntityHandle parent)
    {
        if (parent.Kind == HandleKind.TypeReference)
            return (SignatureText.Instance.GetTypeFromReference(_reader, (TypeReferenceHandle)parent, 0), Scope((TypeReferenceHandle)parent));
        if (parent.Kind != HandleKind.TypeSpecification)
            return null;
        // An instantiated generic type: its definition is what has the member.
        BlobReader blob = _reader.GetBlobReader(_reader.GetTypeSpecification((TypeSpecificationHandle)parent).Signature);
        if (blob.ReadSignatureTypeCode() != SignatureTypeCode.GenericTypeInstance)
            return null;
        blob.ReadCompressedInteger();
        EntityHandle definition = blob.ReadTypeHandle();
        return definition.Kind == HandleKind.TypeReference ? Parent(definition) : null;
    }

    private string? Scope(TypeReferenceHandle handle)
    {
        EntityHandle scope = _reader.GetTypeReference(handle).ResolutionScope;
        return scope.Kind switch
        {
            HandleKind.TypeReference => Scope((TypeReferenceHandle)scope),
            HandleKind.AssemblyReference => _reader.GetString(_reader.GetAssemblyReference((AssemblyReferenceHandle)scope).Name),
            _ => null,
        };
    }
}

using System.Reflection;
using System.Runtime.CompilerServices;
using Grpc.AspNetCore.Server;
using Grpc.Core;
using Grpc.Net.Client;
using Grpc.Net.Compression;
using Xunit;

namespace Vmm.Grpc.Tests;

/// <summary>The stand-ins have everything that the packaged assemblies take from Grpc.Core.Api and Grpc.Net.Common.</summary>
public sealed class StandInTests
{
    private static readonly Assembly[] Packaged = [typeof(GrpcServiceOptions).Assembly, typeof(GrpcChannel).Assembly];
    private static readonly Assembly[] StandIns = [typeof(CallInvoker).Assembly, typeof(ICompressionProvider).Assembly];

    public static TheoryData<string, string> Pairs()
    {
        var pairs = new TheoryData<string, string>();
        foreach (Assembly packaged in Packaged)
            foreach (Assembly standIn in StandIns)
                pairs.Add(packaged.GetName().Name!, standIn.GetName().Name!);
        return pairs;
    }

    [Theory]
    [MemberData(nameof(Pairs))]
    public void Every_reference_resolves(string packaged, string standIn)
    {
        using var asks = new AssemblyMembers(Packaged.Single(assembly => assembly.GetName().Name == packaged).Location);
        using var offers = new AssemblyMembers(StandIns.Single(assembly => assembly.GetName().Name == standIn).Location);
        List<string> required = asks.Required(standIn);
        Assert.NotEmpty(required);
        HashSet<string> offered = offers.Offered();
        List<string> missing = [.. required.Where(member => !offered.Contains(member)).Order(StringComparer.Ordinal)];
        Assert.True(missing.Count == 0, $"{packaged} takes from {standIn} what is not there:\n{string.Join('\n', missing)}");
    }

    [Fact]
    public void The_check_notices_what_is_missing()
    {
        using var asks = new AssemblyMembers(typeof(GrpcChannel).Assembly.Location);
        using var offers = new AssemblyMembers(typeof(ICompressionProvider).Assembly.Location);
        HashSet<string> offered = offers.Offered();
        Assert.Contains(asks.Required("Grpc.Core.Api"), member => !offered.Contains(member));
        Assert.Contains("Grpc.Core.Metadata::Void Add`0(String, Byte[])", asks.Required("Grpc.Core.Api"));
    }

    [Fact]
    public void Every_type_of_the_packages_loads_with_its_overrides()
    {
        foreach (Assembly assembly in Packaged)
            foreach (Type type in assembly.GetTypes().Where(type => !type.ContainsGenericParameters && !type.IsInterface))
                RuntimeHelpers.RunClassConstructor(type.TypeHandle);
    }

    [Fact]
    public void Identity_is_what_the_packages_were_compiled_against()
    {
        using var packaged = new AssemblyMembers(typeof(GrpcChannel).Assembly.Location);
        foreach (Assembly standIn in StandIns)
        {
            using var members = new AssemblyMembers(standIn.Location);
            Assert.Equal(packaged.PublicKey, members.PublicKey);
            Assert.Equal(new Version(2, 0, 0, 0), standIn.GetName().Version);
            Assert.Equal("d754f35622e28bad", Convert.ToHexStringLower(standIn.GetName().GetPublicKeyToken()!));
        }
    }
}

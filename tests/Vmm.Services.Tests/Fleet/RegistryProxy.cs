using System.Reflection;
using Vmm.Registry;

namespace Vmm.Services.Tests.Fleet;

/// <summary>A registry, with what stands in its way.</summary>
internal class RegistryProxy : DispatchProxy
{
    private IRegistry _inner = null!;
    private bool _isOwner;
    private Action<string, object?[]> _before = static (_, _) => { };
    private Func<string, Func<Task>, Task> _around = static (_, call) => call();

    /// <param name="inner">The registry.</param>
    /// <param name="isOwner">Whether it is disposed of with this.</param>
    /// <param name="before">Gets a method's name and its arguments, which it may change.</param>
    /// <param name="around">Gets the method's name and what does it.</param>
    public static IRegistry Of(IRegistry inner, bool isOwner, Action<string, object?[]> before, Func<string, Func<Task>, Task> around)
    {
        IRegistry registry = Create<IRegistry, RegistryProxy>();
        var proxy = (RegistryProxy)registry;
        (proxy._inner, proxy._isOwner, proxy._before, proxy._around) = (inner, isOwner, before, around);
        return registry;
    }

    protected override object? Invoke(MethodInfo? targetMethod, object?[]? args)
    {
        if (targetMethod!.Name == nameof(IAsyncDisposable.DisposeAsync))
            return _isOwner ? _inner.DisposeAsync() : ValueTask.CompletedTask;
        _before(targetMethod.Name, args ?? []);
        object? Call() => targetMethod.Invoke(_inner, BindingFlags.DoNotWrapExceptions, null, args, null);
        Type returned = targetMethod.ReturnType;
        if (returned == typeof(Task))
            return _around(targetMethod.Name, () => (Task)Call()!);
        if (!returned.IsGenericType || returned.GetGenericTypeDefinition() != typeof(Task<>))
            return Call();
        return typeof(RegistryProxy).GetMethod(nameof(AroundAsync), BindingFlags.NonPublic | BindingFlags.Instance)!
            .MakeGenericMethod(returned.GenericTypeArguments[0]).Invoke(this, [targetMethod.Name, (Func<object?>)Call]);
    }

    private async Task<T> AroundAsync<T>(string name, Func<object?> call)
    {
        Task<T>? done = null;
        await _around(name, async () => await (done = (Task<T>)call()!));
        return await done!;
    }
}

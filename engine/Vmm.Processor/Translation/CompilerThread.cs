namespace Vmm.Processor.Translation;

/// <summary>The thread that compiles for all virtual machines of the process: one region for each in turn.</summary>
internal static class CompilerThread
{
    private static readonly Lock Gate = new();
    private static readonly Queue<Translator> Waiting = new();
    private static readonly HashSet<Translator> Known = [];
    private static readonly SemaphoreSlim Work = new(0);
    private static Thread? _thread;

    /// <summary>Tells that a translator has regions to compile.</summary>
    public static void Wake(Translator translator)
    {
        lock (Gate)
        {
            if (!Known.Add(translator))
                return;
            Waiting.Enqueue(translator);
            if (_thread == null)
            {
                _thread = new Thread(Run) { IsBackground = true, Name = "Vmm code compiler", Priority = ThreadPriority.BelowNormal };
                _thread.Start();
            }
        }
        Work.Release();
    }

    private static void Run()
    {
        while (true)
        {
            Work.Wait();
            Translator translator;
            lock (Gate)
            {
                translator = Waiting.Dequeue();
                // Known no more: a request that arrives from now on wakes the thread again.
                Known.Remove(translator);
            }
            if (translator.CompileNext())
                Wake(translator);
        }
    }
}
